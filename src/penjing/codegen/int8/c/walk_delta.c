/* A count (two bytes, low first), then distances from input to input. */
PJ_ALWAYS pj_four_t pj_delta(const pj_listed_t *k, pj_reader_t *r, int bits, const int8_t *x,
                             int32_t step, int pixels, pj_four_t s) {
    const uint8_t *at = r->place + 2, *const end = at + (r->place[0] | r->place[1] << 8);
    while (at != end) {
        x += *at++;
        s = pj_times(k, r, bits, x, step, pixels, s);
    }
    r->place = at;
    return s;
}
