/* Dense convolution, two pixels and two outputs at a time. The weights of two outputs alternate
 * word by word; depth is a multiple of four, filled up with zeros. */
static void pj_pairs(const pj_conv_t *k, const int8_t *a, const int8_t *b, int8_t *y,
                     int8_t *next) {
    const int8_t *w = k->weight;
    int32_t o = 0;
    for (; o + 1 < k->outputs; o += 2) {
        int32_t s0 = k->bias[o], s1 = k->bias[o + 1], t0 = s0, t1 = s1;
        const int8_t *p = a, *q = b, *const end = a + k->depth;
        do {
            const uint32_t x = pj_load(p), z = pj_load(q);
            p += 4;
            q += 4;
            const uint32_t x0 = pj_even(x), x1 = pj_odd(x), z0 = pj_even(z), z1 = pj_odd(z);
            const uint32_t v = pj_load(w), v0 = pj_even(v), v1 = pj_odd(v);
            s0 = pj_both(x0, v0, s0);
            t0 = pj_both(z0, v0, t0);
            s0 = pj_both(x1, v1, s0);
            t0 = pj_both(z1, v1, t0);
            const uint32_t u = pj_load(w + 4), u0 = pj_even(u), u1 = pj_odd(u);
            w += 8;
            s1 = pj_both(x0, u0, s1);
            t1 = pj_both(z0, u0, t1);
            s1 = pj_both(x1, u1, s1);
            t1 = pj_both(z1, u1, t1);
        } while (p != end);
        s0 = pj_finish(k, o, s0);
        t0 = pj_finish(k, o, t0);
        s1 = pj_finish(k, o + 1, s1);
        t1 = pj_finish(k, o + 1, t1);
        y[o] = (int8_t)s0;
        y[o + 1] = (int8_t)s1;
        next[o] = (int8_t)t0;
        next[o + 1] = (int8_t)t1;
    }
    if (o < k->outputs) {
        int32_t s = k->bias[o], t = s;
        for (int32_t i = 0; i < k->depth; i += 4) {
            const uint32_t x = pj_load(a + i), z = pj_load(b + i), v = pj_load(w + i);
            s = pj_both(pj_odd(x), pj_odd(v), pj_both(pj_even(x), pj_even(v), s));
            t = pj_both(pj_odd(z), pj_odd(v), pj_both(pj_even(z), pj_even(v), t));
        }
        y[o] = pj_finish(k, o, s);
        next[o] = pj_finish(k, o, t);
    }
}

static void pj_single(const pj_conv_t *k, const int8_t *a, int8_t *y) {
    const int8_t *w = k->weight;
    int32_t o = 0;
    for (; o + 1 < k->outputs; o += 2) {
        int32_t s = k->bias[o], t = k->bias[o + 1];
        const int8_t *p = a, *const end = a + k->depth;
        do {
            const uint32_t x = pj_load(p), v = pj_load(w), u = pj_load(w + 4);
            const uint32_t x0 = pj_even(x), x1 = pj_odd(x);
            p += 4;
            w += 8;
            s = pj_both(x1, pj_odd(v), pj_both(x0, pj_even(v), s));
            t = pj_both(x1, pj_odd(u), pj_both(x0, pj_even(u), t));
        } while (p != end);
        y[o] = pj_finish(k, o, s);
        y[o + 1] = pj_finish(k, o + 1, t);
    }
    if (o < k->outputs) {
        int32_t s = k->bias[o];
        for (int32_t i = 0; i < k->depth; i += 4) {
            const uint32_t x = pj_load(a + i), v = pj_load(w + i);
            s = pj_both(pj_odd(x), pj_odd(v), pj_both(pj_even(x), pj_even(v), s));
        }
        y[o] = pj_finish(k, o, s);
    }
}

/* Pixels first to first + count of one row, count 1 or 2. */
static void pj_tile(const pj_conv_t *k, const int8_t *x, int32_t row, int32_t first, int32_t count,
                    int8_t *y, int8_t *scratch) {
    const int8_t *a = scratch, *b = scratch + k->pitch;
    if (k->pitch == 0) { /* one by one: the input is its own column */
        a = x + (row * k->width + first) * k->channels;
        b = a + k->channels;
    } else {
        pj_column(k, x, row, first, scratch);
        if (count > 1) {
            pj_column(k, x, row, first + 1, scratch + k->pitch);
        }
    }
    if (count > 1) {
        pj_pairs(k, a, b, y, y + k->outputs);
    } else {
        pj_single(k, a, y);
    }
}

static void pj_conv(const pj_conv_t *k, const int8_t *x, int8_t *y, int8_t *scratch) {
    for (int32_t row = 0; row < k->rows; ++row) {
        for (int32_t at = 0; at < k->columns; at += 2) {
            const int32_t count = at + 1 < k->columns ? 2 : 1;
            pj_tile(k, x, row, at, count, y, scratch);
            y += count * k->outputs;
        }
    }
}
