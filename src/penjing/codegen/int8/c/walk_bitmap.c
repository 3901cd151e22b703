/* One bit per weight, the lowest first; rows of the kernel begin with bytes. */
PJ_ALWAYS pj_four_t pj_bitmap(const pj_listed_t *k, pj_reader_t *r, int bits, const int8_t *x,
                              int32_t step, int pixels, pj_four_t s) {
    const uint8_t *at = r->place;
    for (int32_t i = 0; i < k->rows; ++i, x += k->conv.pitch) {
        for (int32_t j = 0; j < k->run; j += 8) {
            const int8_t *p = x + j;
            for (uint32_t there = *at++; there; there >>= 1, ++p) {
                if (there & 1) {
                    s = pj_times(k, r, bits, p, step, pixels, s);
                }
            }
        }
    }
    r->place = at;
    return s;
}
