static void pj_gru(const pj_recurrent_t *r, const int8_t *x, int8_t *y, int16_t *kept,
                   const int8_t *h) {
    const int32_t n = r->hidden;
    for (int32_t k = 0; k < r->steps; ++k) {
        const int32_t t = r->reverse ? r->steps - 1 - k : k;
        const int8_t *const seen = x + t * r->inputs;
        int8_t *const out = y + t * n;
        for (int32_t u = 0; u < n; ++u) {
            const int32_t reset = pj_sigmoid(r, pj_read(r, seen, u) + pj_recall(r, h, u));
            const int32_t update =
                pj_sigmoid(r, pj_read(r, seen, n + u) + pj_recall(r, h, n + u));
            const int32_t past = pj_half_up(reset * pj_recall(r, h, 2 * n + u), 15);
            const int32_t fresh = pj_tanh(r, pj_read(r, seen, 2 * n + u) + past);
            kept[u] = (int16_t)(fresh + pj_half_up(update * (kept[u] - fresh), 15));
            out[u] = pj_clamp(pj_half_up(kept[u], 8), -128, 127);
        }
        h = out;
    }
}
