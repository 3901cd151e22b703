/* Products of both halves of two words, added to a sum. */
#ifdef PJ_DSP
PJ_HELPER int32_t pj_both(uint32_t a, uint32_t b, int32_t sum) {
    return __smlad((int16x2_t)a, (int16x2_t)b, sum);
}
#else
PJ_HELPER int32_t pj_both(uint32_t a, uint32_t b, int32_t sum) {
    return sum + pj_half(a, 0) * pj_half(b, 0) + pj_half(a, 16) * pj_half(b, 16);
}
#endif
