static void pj_rnn(const pj_recurrent_t *r, const int8_t *x, int8_t *y, const int8_t *h) {
    for (int32_t k = 0; k < r->steps; ++k) {
        const int32_t t = r->reverse ? r->steps - 1 - k : k;
        int8_t *const out = y + t * r->hidden;
        for (int32_t u = 0; u < r->hidden; ++u) {
            const int32_t sum = pj_read(r, x + t * r->inputs, u) + pj_recall(r, h, u);
            out[u] = pj_clamp(pj_half_up(pj_tanh(r, sum), 8), -128, 127);
        }
        h = out;
    }
}
