/* Sparse convolution, four pixels at a time. The weights of an output are a count (two bytes, low
 * first) and pairs of bytes: how far to go on in the window, and the weight. */
static void pj_sparse4(const pj_conv_t *k, const int8_t *window, int8_t *y, int32_t count) {
    const int8_t *list = k->weight;
    const int32_t step = k->stride_width * k->channels;
    for (int32_t o = 0; o < k->outputs; ++o) {
        int32_t s0 = k->bias[o], s1 = s0, s2 = s0, s3 = s0;
        const int32_t n = (int32_t)(uint8_t)list[0] | (int32_t)(uint8_t)list[1] << 8;
        const int8_t *x = window;
        list += 2;
        for (const int8_t *const end = list + 2 * n; list != end;) {
            x += (uint8_t)*list++;
            const int32_t w = *list++;
            s0 += w * x[0];
            s1 += w * x[step];
            s2 += w * x[2 * step];
            s3 += w * x[3 * step];
        }
        const int32_t at = o & k->which, m = k->multiplier[at], down = k->shift[at];
        const int32_t zero = k->zero, low = k->low, high = k->high, next = k->outputs;
        int8_t *const to = y + o;
        to[0] = pj_clamp(pj_scale(s0, m, down) + zero, low, high);
        if (count > 1) {
            to[next] = pj_clamp(pj_scale(s1, m, down) + zero, low, high);
        }
        if (count > 2) {
            to[2 * next] = pj_clamp(pj_scale(s2, m, down) + zero, low, high);
        }
        if (count > 3) {
            to[3 * next] = pj_clamp(pj_scale(s3, m, down) + zero, low, high);
        }
    }
}

static void pj_sparse1(const pj_conv_t *k, const int8_t *x, int8_t *y) {
    const int8_t *list = k->weight;
    for (int32_t o = 0; o < k->outputs; ++o) {
        int32_t s = k->bias[o];
        const int32_t n = (int32_t)(uint8_t)list[0] | (int32_t)(uint8_t)list[1] << 8;
        const int8_t *p = x;
        list += 2;
        for (const int8_t *const end = list + 2 * n; list != end; list += 2) {
            p += (uint8_t)list[0];
            s += list[1] * *p;
        }
        y[o] = pj_finish(k, o, s);
    }
}

static void pj_sparse_tile(const pj_conv_t *k, const int8_t *x, int32_t row, int32_t first,
                           int32_t count, int8_t *y, int8_t *scratch) {
    if (k->pitch == 0) {
        pj_sparse1(k, x, y);
        return;
    }
    pj_window(k, x, row, first, scratch);
    if (count == 1) {
        pj_sparse1(k, scratch, y);
        return;
    }
    pj_sparse4(k, scratch, y, count);
}

static void pj_sparse(const pj_conv_t *k, const int8_t *x, int8_t *y, int8_t *scratch) {
    for (int32_t row = 0; row < k->rows; ++row) {
        for (int32_t at = 0; at < k->columns; at += 4) {
            const int32_t count = k->columns - at < 4 ? k->columns - at : 4;
            pj_sparse_tile(k, x, row, at, count, y, scratch);
            y += count * k->outputs;
        }
    }
}
