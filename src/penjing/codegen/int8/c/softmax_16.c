/* Softmax over runs of 16-bit values by the points of exp and of 1 / (1 + x), as TensorFlow Lite
 * defines it. Where mask is 0, values do not count; its rows repeat after `rows` runs. */
static void pj_softmax_16(const int16_t *x, int16_t *y, int32_t n, int32_t run, int32_t multiplier,
                          int32_t shift, const int16_t *exponential, const int16_t *reciprocal,
                          const int8_t *mask, int32_t rows) {
    for (int32_t k = 0; k < n; ++k, x += run, y += run) {
        const int8_t *const seen = mask == NULL ? NULL : mask + k % rows * run;
        int32_t best = INT16_MIN, sum = 0, spare = 0;
        for (int32_t i = 0; i < run; ++i) {
            best = x[i] > best && (seen == NULL || seen[i]) ? x[i] : best;
        }
        for (int32_t i = 0; i < run; ++i) {
            const int32_t under = x[i] < best ? x[i] - best : 0;
            const int32_t at = pj_to_32(under, multiplier, shift) + INT16_MAX;
            y[i] = seen == NULL || seen[i] ? pj_line_16(exponential, at < INT16_MIN ? INT16_MIN : at) : 0;
            sum += y[i];
        }
        sum = sum > 1 << 14 ? sum : 1 << 14;
        while (((uint32_t)sum << spare & 0x80000000u) == 0) {
            ++spare;
        }
        const int32_t above =
            (int32_t)((((int64_t)sum << (spare - 1)) + (1 << 13)) >> 14) - (1 << 15) - (1 << 16);
        const int32_t share = pj_line_16(reciprocal, above > INT16_MAX ? INT16_MAX : above);
        const int32_t down = 31 - spare;
        for (int32_t i = 0; i < run; ++i) {
            const int64_t whole = ((int64_t)y[i] * share + ((int64_t)1 << (down - 1))) >> down;
            y[i] = (int16_t)(whole < INT16_MAX ? whole : INT16_MAX);
        }
    }
}
