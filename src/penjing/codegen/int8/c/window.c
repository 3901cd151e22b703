/* What four neighbouring output pixels of a convolution read: for each row of the kernel `pitch`
 * bytes, of which the next pixel reads those from `stride_width * channels` on. */
static void pj_window(const pj_conv_t *k, const int8_t *x, int32_t row, int32_t column,
                      int8_t *to) {
    const int32_t left = (column * k->stride_width - k->left) * k->channels;
    const int32_t line = k->width * k->channels, wide = k->pitch;
    const int32_t before = left >= 0 ? 0 : -left < wide ? -left : wide;
    const int32_t rest = line - left - before, room = wide - before;
    const int32_t inside = rest < 0 ? 0 : rest < room ? rest : room;
    int32_t y = row * k->stride_height - k->top;
    for (int32_t i = 0; i < k->kernel_height; ++i, y += k->dilation_height, to += wide) {
        if (y < 0 || y >= k->height) {
            pj_fill(to, k->input_zero, wide);
        } else {
            pj_fill(to, k->input_zero, before);
            pj_copy(to + before, x + (y * line + left + before), inside);
            pj_fill(to + before + inside, k->input_zero, room - inside);
        }
    }
}
