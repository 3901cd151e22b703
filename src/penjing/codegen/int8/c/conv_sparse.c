/* Sparse convolution, four pixels at a time. The weights of an output are a count (two bytes, low
 * first) and pairs of bytes: how far to go on in the column, and the weight. Columns are PJ_PITCH
 * bytes apart. */
static void pj_sparse4(const pj_conv_t *k, const int8_t *columns, int8_t *y, int32_t count) {
    const int8_t *list = k->weight;
    for (int32_t o = 0; o < k->outputs; ++o) {
        int32_t s0 = k->bias[o], s1 = s0, s2 = s0, s3 = s0;
        const int32_t n = (int32_t)(uint8_t)list[0] | (int32_t)(uint8_t)list[1] << 8;
        const int8_t *x = columns;
        list += 2;
        for (const int8_t *const end = list + 2 * n; list != end; list += 2) {
            x += (uint8_t)list[0];
            const int32_t w = list[1];
            s0 += w * x[0];
            s1 += w * x[PJ_PITCH];
            s2 += w * x[2 * PJ_PITCH];
            s3 += w * x[3 * PJ_PITCH];
        }
        const int32_t sums[4] = {s0, s1, s2, s3};
        for (int32_t i = 0; i < count; ++i) {
            y[i * k->outputs + o] = pj_finish(k, o, sums[i]);
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
    for (int32_t i = 0; i < count; ++i) {
        pj_column(k, x, row, first + i, scratch + i * PJ_PITCH);
    }
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
