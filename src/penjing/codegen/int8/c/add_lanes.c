/* Sum of two grids, sixteen values at a time. */
static void pj_add_lanes(const pj_add_t *k, const int8_t *a, const int8_t *b, int8_t *y,
                         int32_t n) {
    const int simple = k->left_shift >= 0 && k->right_shift >= 0 && k->shift >= 0;
    for (; simple && n >= 16; n -= 16, a += 16, b += 16, y += 16) {
        const pj_lanes p = pj_lanes_plus(pj_lanes_bytes(a), pj_lanes_all(-k->left_zero));
        const pj_lanes q = pj_lanes_plus(pj_lanes_bytes(b), pj_lanes_all(-k->right_zero));
        const pj_lanes sum =
            pj_lanes_plus(pj_lanes_scale(pj_lanes_up(p, 20), pj_lanes_all(k->left_multiplier),
                                         pj_lanes_all(k->left_shift)),
                          pj_lanes_scale(pj_lanes_up(q, 20), pj_lanes_all(k->right_multiplier),
                                         pj_lanes_all(k->right_shift)));
        const pj_lanes result =
            pj_lanes_scale(sum, pj_lanes_all(k->multiplier), pj_lanes_all(k->shift));
        pj_lanes_store(result, k->zero, k->low, k->high, y);
    }
    pj_add(k, a, b, y, n);
}
