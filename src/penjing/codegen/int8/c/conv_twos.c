/* Convolution with outputs that share their zeros two by two. Of two outputs: a count (two bytes,
 * low first), then pairs of inputs: how far to go on to the first and from there to the second, and
 * four weights: of the first input and both outputs, then of the second. */
PJ_ALWAYS void pj_add_two(const int8_t *first, const int8_t *second, uint32_t even, uint32_t odd,
                          int32_t *s, int32_t *t) {
    PJ_IN_TURN
    const uint32_t v = pj_two(*first, *second);
    *s = pj_both(v, even, *s);
    *t = pj_both(v, odd, *t);
}

PJ_ALWAYS void pj_twos(const pj_conv_t *k, const int8_t *window, int32_t step, int pixels,
                       int32_t count, int8_t *y) {
    const int8_t *list = k->weight;
    for (int32_t o = 0; o < k->outputs; o += 2) {
        const int32_t next = o + 1 < k->outputs ? o + 1 : o;
        pj_four_t s = pj_four(k->bias[o]), t = pj_four(k->bias[next]);
        const int8_t *x = window;
        const int32_t n = (uint8_t)list[0] | (uint8_t)list[1] << 8;
        list += 2;
        for (const int8_t *const end = list + 6 * n; list != end; list += 6) {
            const int8_t *const first = x + (uint8_t)list[0];
            x = first + (uint8_t)list[1];
            const uint32_t w = pj_load(list + 2), even = pj_even(w), odd = pj_odd(w);
            pj_add_two(first, x, even, odd, &s.a, &t.a);
            if (pixels > 1) {
                pj_add_two(first + step, x + step, even, odd, &s.b, &t.b);
                pj_add_two(first + 2 * step, x + 2 * step, even, odd, &s.c, &t.c);
                pj_add_two(first + 3 * step, x + 3 * step, even, odd, &s.d, &t.d);
            }
        }
        pj_store_four(k, o, s, count, y);
        if (next > o) {
            pj_store_four(k, next, t, count, y);
        }
    }
}
