static void pj_lstm(const pj_recurrent_t *r, const int8_t *x, int8_t *y, int16_t *kept,
                   const int8_t *h) {
    const int32_t n = r->hidden, down = r->cell_bits - 12;
    for (int32_t k = 0; k < r->steps; ++k) {
        const int32_t t = r->reverse ? r->steps - 1 - k : k;
        const int8_t *const seen = x + t * r->inputs;
        int8_t *const out = y + t * n;
        for (int32_t u = 0; u < n; ++u) {
            int32_t sums[4];
            for (int32_t g = 0; g < 4; ++g) {
                sums[g] = pj_read(r, seen, g * n + u) + pj_recall(r, h, g * n + u);
            }
            const int32_t added = pj_sigmoid(r, sums[0]) * pj_tanh(r, sums[2]);
            const int32_t cell = pj_16(pj_half_up(pj_sigmoid(r, sums[1]) * kept[u], 15) +
                                       pj_half_up(added, 30 - r->cell_bits));
            const int32_t wide = down >= 0 ? pj_half_up(cell, down) : cell * (1 << -down);
            kept[u] = (int16_t)cell;
            out[u] = pj_clamp(pj_half_up(pj_sigmoid(r, sums[3]) * pj_tanh(r, wide), 23), -128,
                              127);
        }
        h = out;
    }
}
