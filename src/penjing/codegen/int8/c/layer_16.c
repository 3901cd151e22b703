/* A convolution of 16-bit values; 504 products of one of them and a weight fit 32 bits. */
#define PJ_MOST 504
typedef struct {
    const int8_t *weight;
    const int32_t *bias;
    const int16_t *multiplier;
    const int8_t *shift;
    int32_t height, width, channels; /* of the input */
    int32_t rows, columns, outputs;  /* of the output */
    int16_t kernel_height, kernel_width, stride_height, stride_width;
    int16_t dilation_height, dilation_width, top, left;
    int32_t depth, pitch; /* values of a column: used, and apart */
    int32_t which;        /* bits of an output's number that choose its multiplier: all or none */
    int16_t low, high;
} pj_conv_16_t;

static inline int16_t pj_finish_16(const pj_conv_16_t *k, int32_t output, int64_t sum) {
    const int32_t at = output & k->which;
    return pj_scale_16(sum, k->multiplier[at], k->shift[at], k->low, k->high);
}
