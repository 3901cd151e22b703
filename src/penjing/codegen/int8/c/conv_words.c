/* Convolution with blocks of four neighbouring inputs. The weights of an output are a count (two
 * bytes, low first), then blocks: how many words of the window to go on, and four weights. */
PJ_ALWAYS int32_t pj_word(uint32_t even, uint32_t odd, const int8_t *x, int32_t sum) {
    PJ_IN_TURN
    const uint32_t v = pj_load(x);
    return pj_both(pj_odd(v), odd, pj_both(pj_even(v), even, sum));
}

PJ_ALWAYS void pj_words(const pj_conv_t *k, const int8_t *window, int32_t step, int pixels,
                        int32_t count, int8_t *y) {
    const int8_t *list = k->weight;
    for (int32_t o = 0; o < k->outputs; ++o) {
        pj_four_t s = pj_four(k->bias[o]);
        const int8_t *x = window;
        const int32_t n = (uint8_t)list[0] | (uint8_t)list[1] << 8;
        list += 2;
        for (const int8_t *const end = list + 5 * n; list != end; list += 5) {
            x += 4 * (uint8_t)list[0];
            const uint32_t w = pj_load(list + 1), even = pj_even(w), odd = pj_odd(w);
            s.a = pj_word(even, odd, x, s.a);
            if (pixels > 1) {
                s.b = pj_word(even, odd, x + step, s.b);
                s.c = pj_word(even, odd, x + 2 * step, s.c);
                s.d = pj_word(even, odd, x + 3 * step, s.d);
            }
        }
        pj_store_four(k, o, s, count, y);
    }
}
