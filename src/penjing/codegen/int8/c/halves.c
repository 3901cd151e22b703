/* Product of the lower or the upper halves of two words, added to a sum. */
#ifdef PJ_DSP
PJ_HELPER int32_t pj_bottom(uint32_t a, uint32_t b, int32_t sum) {
    __asm__("smlabb %0, %1, %2, %0" : "+r"(sum) : "r"(a), "r"(b));
    return sum;
}
PJ_HELPER int32_t pj_top(uint32_t a, uint32_t b, int32_t sum) {
    __asm__("smlatt %0, %1, %2, %0" : "+r"(sum) : "r"(a), "r"(b));
    return sum;
}
#else
PJ_HELPER int32_t pj_bottom(uint32_t a, uint32_t b, int32_t sum) {
    return sum + pj_half(a, 0) * pj_half(b, 0);
}
PJ_HELPER int32_t pj_top(uint32_t a, uint32_t b, int32_t sum) {
    return sum + pj_half(a, 16) * pj_half(b, 16);
}
#endif
