/* Dense convolution, two pixels and two outputs at a time. The weights of two outputs alternate
 * word by word, the middle two of each word exchanged; depth is a multiple of four, filled up with
 * zeros. */
static inline uint32_t pj_two_16(const int16_t *p) {
    uint32_t x;
    memcpy(&x, p, 4);
    return x;
}

static void pj_pairs_16(const pj_conv_16_t *k, const int16_t *a, const int16_t *b, int16_t *y,
                        int16_t *next) {
    const int8_t *w = k->weight;
    int32_t o = 0;
    for (; o + 1 < k->outputs; o += 2) {
        int64_t sums[4] = {k->bias[o], k->bias[o + 1], k->bias[o], k->bias[o + 1]};
        const int16_t *p = a, *q = b;
        for (int32_t left = k->depth; left > 0; left -= PJ_MOST) {
            int32_t s0 = 0, s1 = 0, t0 = 0, t1 = 0;
            const int16_t *const end = p + (left < PJ_MOST ? left : PJ_MOST);
            do {
                const uint32_t x0 = pj_two_16(p), x1 = pj_two_16(p + 2);
                const uint32_t z0 = pj_two_16(q), z1 = pj_two_16(q + 2);
                const uint32_t v = pj_load(w), v0 = pj_even(v), v1 = pj_odd(v);
                p += 4;
                q += 4;
                s0 = pj_both(x1, v1, pj_both(x0, v0, s0));
                t0 = pj_both(z1, v1, pj_both(z0, v0, t0));
                const uint32_t u = pj_load(w + 4), u0 = pj_even(u), u1 = pj_odd(u);
                w += 8;
                s1 = pj_both(x1, u1, pj_both(x0, u0, s1));
                t1 = pj_both(z1, u1, pj_both(z0, u0, t1));
            } while (p != end);
            sums[0] += s0;
            sums[1] += s1;
            sums[2] += t0;
            sums[3] += t1;
        }
        y[o] = pj_finish_16(k, o, sums[0]);
        y[o + 1] = pj_finish_16(k, o + 1, sums[1]);
        next[o] = pj_finish_16(k, o, sums[2]);
        next[o + 1] = pj_finish_16(k, o + 1, sums[3]);
    }
    if (o < k->outputs) {
        int64_t s = k->bias[o], t = s;
        for (int32_t i = 0; i < k->depth; i += 4) {
            const uint32_t v = pj_load(w + i), v0 = pj_even(v), v1 = pj_odd(v);
            s += pj_both(pj_two_16(a + i + 2), v1, pj_both(pj_two_16(a + i), v0, 0));
            t += pj_both(pj_two_16(b + i + 2), v1, pj_both(pj_two_16(b + i), v0, 0));
        }
        y[o] = pj_finish_16(k, o, s);
        next[o] = pj_finish_16(k, o, t);
    }
}

static void pj_single_16(const pj_conv_16_t *k, const int16_t *a, int16_t *y) {
    const int8_t *w = k->weight;
    int32_t o = 0;
    for (; o < k->outputs; o += 2) {
        const int32_t apart = o + 1 < k->outputs ? 4 : 0; /* a last odd output lies alone */
        int64_t s = k->bias[o], t = k->bias[o + apart / 4];
        for (int32_t at = 0; at < k->depth; at += PJ_MOST) {
            const int32_t end = k->depth - at < PJ_MOST ? k->depth : at + PJ_MOST;
            int32_t sum = 0, other = 0;
            for (int32_t i = at; i < end; i += 4, w += 4 + apart) {
                const uint32_t x0 = pj_two_16(a + i), x1 = pj_two_16(a + i + 2);
                const uint32_t v = pj_load(w), u = pj_load(w + apart);
                sum = pj_both(x1, pj_odd(v), pj_both(x0, pj_even(v), sum));
                other = pj_both(x1, pj_odd(u), pj_both(x0, pj_even(u), other));
            }
            s += sum;
            t += other;
        }
        y[o] = pj_finish_16(k, o, s);
        y[o + apart / 4] = pj_finish_16(k, o + apart / 4, t);
    }
}

static void pj_conv_16(const pj_conv_16_t *k, const int16_t *x, int16_t *y, int16_t *scratch) {
    for (int32_t row = 0; row < k->rows; ++row) {
        for (int32_t at = 0; at < k->columns; at += 2) {
            const int32_t count = at + 1 < k->columns ? 2 : 1;
            const int16_t *a = x + (row * k->width + at) * k->channels, *b = a + k->channels;
            if (k->pitch != 0) {
                a = scratch;
                b = scratch + k->pitch;
                pj_column_16(k, x, row, at, scratch);
            }
            if (count == 1) {
                pj_single_16(k, a, y);
            } else {
                if (k->pitch != 0) {
                    pj_column_16(k, x, row, at + 1, scratch + k->pitch);
                }
                pj_pairs_16(k, a, b, y, y + k->outputs);
            }
            y += count * k->outputs;
        }
    }
}
