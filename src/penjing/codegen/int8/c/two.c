/* Two values as the halves of a word. */
#ifdef PJ_DSP
PJ_HELPER uint32_t pj_two(int32_t low, int32_t high) {
    uint32_t y;
    __asm__("pkhbt %0, %1, %2, lsl #16" : "=r"(y) : "r"(low), "r"(high));
    return y;
}
#else
PJ_HELPER uint32_t pj_two(int32_t low, int32_t high) {
    return ((uint32_t)low & 0xFFFFu) | (uint32_t)high << 16;
}
#endif
