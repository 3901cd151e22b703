/* A convolution. */
typedef struct {
    const int8_t *weight;
    const int32_t *bias, *multiplier;
    const int8_t *shift;
    int32_t height, width, channels; /* of the input */
    int32_t rows, columns, outputs;  /* of the output */
    int16_t kernel_height, kernel_width, stride_height, stride_width;
    int16_t dilation_height, dilation_width, top, left;
    int32_t depth, pitch; /* bytes of a column: used, and apart */
    int32_t which;        /* bits of an output's number that choose its multiplier: all or none */
    int8_t input_zero, zero, low, high;
} pj_conv_t;
