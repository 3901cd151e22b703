/* The least program around a network: starts the core and runs it. Its size is what a network costs
 * in flash. */
#include <stdint.h>

#include "net.h"

extern uint32_t board_stack[], board_data_from[], board_data[], board_data_end[];
extern uint32_t board_bss[], board_bss_end[];

static union {
    int8_t bytes[NET_ARENA_BYTES];
    uint64_t align;
} arena;

static void on_fault(void) {
    for (;;) {
    }
}

static void on_reset(void) {
    *(volatile uint32_t *)0xE000ED88 |= 0xFu << 20; /* floating point and Helium */
    __asm__ volatile("dsb\n isb" ::: "memory");
    for (uint32_t *to = board_data, *from = board_data_from; to < board_data_end;) *to++ = *from++;
    for (uint32_t *to = board_bss; to < board_bss_end;) *to++ = 0;
    for (;;) {
        net_run(arena.bytes);
        __asm__ volatile("" ::"r"(&arena) : "memory");
    }
}

__attribute__((section(".vectors"), used)) static void (*const vectors[16])(void) = {
    (void (*)(void))board_stack, on_reset, on_fault, on_fault, on_fault, on_fault, on_fault,
    on_fault, on_fault, on_fault, on_fault, on_fault, on_fault, on_fault, on_fault, on_fault,
};
