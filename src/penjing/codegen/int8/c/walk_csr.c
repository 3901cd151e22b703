/* A count, then where inputs lie, in two bytes each (low first). */
PJ_ALWAYS pj_four_t pj_csr(const pj_listed_t *k, pj_reader_t *r, int bits, const int8_t *x,
                           int32_t step, int pixels, pj_four_t s) {
    const uint8_t *at = r->place + 2, *const end = at + 2 * (r->place[0] | r->place[1] << 8);
    for (; at != end; at += 2) {
        s = pj_times(k, r, bits, x + (at[0] | at[1] << 8), step, pixels, s);
    }
    r->place = at;
    return s;
}
