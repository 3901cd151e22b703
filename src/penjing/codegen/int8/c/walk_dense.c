/* All weights are there. */
PJ_ALWAYS pj_four_t pj_dense(const pj_listed_t *k, pj_reader_t *r, int bits, const int8_t *x,
                             int32_t step, int pixels, pj_four_t s) {
    for (int32_t i = 0; i < k->rows; ++i, x += k->conv.pitch) {
        for (int32_t j = 0; j < k->run; ++j) {
            s = pj_times(k, r, bits, x + j, step, pixels, s);
        }
    }
    return s;
}
