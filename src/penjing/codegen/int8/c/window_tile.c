static void @NAME@_tile(const pj_conv_t *k, const int8_t *x, int32_t row, int32_t first,
                        int32_t count, int8_t *y, int8_t *scratch) {
    const int32_t step = k->stride_width * k->channels;
    if (k->pitch == 0) {
        @NAME@(k, x, 0, 1, 1, y);
        return;
    }
    pj_window(k, x, row, first, scratch);
    @NAME@(k, scratch, step, 4, count, y);
}
