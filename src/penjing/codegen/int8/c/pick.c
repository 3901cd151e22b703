/* Products of sixteen outputs with inputs of their own: each output picks four of the same 64 bytes.
 * A step is 64 indices and 64 weights, those of an output next to each other. */
#if defined(__AVX512VBMI__) && PJ_FLIP
typedef __m512i pj_bytes;
PJ_INLINE pj_bytes pj_bytes_load(const int8_t *x) { return _mm512_loadu_si512(x); }
PJ_INLINE pj_sums pj_sums_pick(pj_sums sums, const int8_t *step, pj_bytes x) {
    const __m512i picked = _mm512_permutexvar_epi8(_mm512_loadu_si512(step), x);
    return _mm512_dpbusd_epi32(sums, picked, _mm512_loadu_si512(step + 64));
}
#else
typedef const int8_t *pj_bytes;
PJ_INLINE pj_bytes pj_bytes_load(const int8_t *x) { return x; }
PJ_INLINE pj_sums pj_sums_pick(pj_sums sums, const int8_t *step, pj_bytes x) {
    int8_t own[64] = {0}; /* of one output, where the rest is zero, as a dense product wants it */
    for (int32_t i = 0; i < 16; ++i) {
        int8_t four[4];
        for (int32_t j = 0; j < 4; ++j) {
            four[j] = x[step[4 * i + j]];
        }
        memcpy(own + 4 * i, step + 64 + 4 * i, 4);
        sums = pj_sums_dot(sums, own, four);
        memset(own + 4 * i, 0, 4);
    }
    return sums;
}
#endif
