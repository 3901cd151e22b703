/* Four int8 values in a word, two at a time as halves. */
#if defined(__ARM_FEATURE_SIMD32) && !defined(PENJING_PLAIN)
#define PJ_DSP 1
#include <arm_acle.h>
PJ_HELPER uint32_t pj_even(uint32_t x) {
    uint32_t y;
    __asm__("sxtb16 %0, %1" : "=r"(y) : "r"(x));
    return y;
}
PJ_HELPER uint32_t pj_odd(uint32_t x) {
    uint32_t y;
    __asm__("sxtb16 %0, %1, ror #8" : "=r"(y) : "r"(x));
    return y;
}
#define PJ_IN_TURN __asm__ volatile("" ::: "memory"); /* else loads come early and fill registers */
PJ_HELPER uint32_t pj_even_plus(uint32_t halves, uint32_t x) {
    uint32_t y;
    __asm__("sxtab16 %0, %1, %2" : "=r"(y) : "r"(halves), "r"(x));
    return y;
}
PJ_HELPER uint32_t pj_odd_plus(uint32_t halves, uint32_t x) {
    uint32_t y;
    __asm__("sxtab16 %0, %1, %2, ror #8" : "=r"(y) : "r"(halves), "r"(x));
    return y;
}
#else
#define PJ_IN_TURN
PJ_HELPER int32_t pj_half(uint32_t x, int32_t at) {
    const uint32_t y = (x >> at) & 0xFFFFu;
    return (int32_t)(y ^ 0x8000u) - 0x8000;
}
PJ_HELPER uint32_t pj_even_plus(uint32_t halves, uint32_t x) {
    const uint32_t low = ((x & 0xFFu) ^ 0x80u) - 0x80u + halves;
    const uint32_t high = (((x >> 16) & 0xFFu) ^ 0x80u) - 0x80u + (halves >> 16);
    return (low & 0xFFFFu) | (high << 16);
}
PJ_HELPER uint32_t pj_odd_plus(uint32_t halves, uint32_t x) {
    return pj_even_plus(halves, x >> 8);
}
PJ_HELPER uint32_t pj_even(uint32_t x) { return pj_even_plus(0, x); }
PJ_HELPER uint32_t pj_odd(uint32_t x) { return pj_odd_plus(0, x); }
#endif
PJ_HELPER uint32_t pj_load(const int8_t *p) {
    uint32_t x;
    memcpy(&x, p, 4);
    return x;
}
