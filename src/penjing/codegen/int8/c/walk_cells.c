/* Cell by cell a code, which stands for a list of inputs that are there. */
PJ_ALWAYS pj_four_t pj_cells(const pj_listed_t *k, pj_reader_t *r, int bits, const int8_t *x,
                             int32_t step, int pixels, pj_four_t s) {
    for (int32_t i = 0; i < k->rows; ++i, x += k->conv.pitch) {
        for (int32_t j = 0; j < k->cells; ++j) {
            const uint16_t *const shape = k->offsets + pj_code(r->place, r->cell++, k->bits);
            const uint16_t *at = k->offsets + shape[0], *const end = k->offsets + shape[1];
            for (const int8_t *const p = x + j * k->apart; at != end; ++at) {
                s = pj_times(k, r, bits, p + *at, step, pixels, s);
            }
        }
    }
    return s;
}
