/* Start-up of an emulated Cortex-M, and a counter of executed instructions.
 *
 * The emulator runs with -icount: every instruction takes PENJING_PS_PER_INSTRUCTION of its virtual
 * time, so the core's SysTick, which that time drives, counts instructions. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

extern uint32_t board_stack[], board_data_from[], board_data[], board_data_end[];
extern uint32_t board_bss[], board_bss_end[];
extern void initialise_monitor_handles(void);
extern int main(void);

#define REGISTER(address) (*(volatile uint32_t *)(address))
#define SYSTICK_CONTROL REGISTER(0xE000E010)
#define SYSTICK_RELOAD REGISTER(0xE000E014)
#define SYSTICK_VALUE REGISTER(0xE000E018)
#define COPROCESSORS REGISTER(0xE000ED88)
#define FULL 0xFFFFFFu

static volatile uint32_t rounds;

static void on_tick(void) { ++rounds; }

uint64_t board_instructions(void);

uint64_t board_instructions(void) {
    uint32_t before, value;
    do {
        before = rounds;
        value = SYSTICK_VALUE;
    } while (before != rounds);
    uint64_t ticks = (uint64_t)before * (FULL + 1u) + (FULL - value);
    return ticks * PENJING_PS_PER_TICK / PENJING_PS_PER_INSTRUCTION;
}

static void on_fault(void) {
    static const char text[] = "penjing: the program faulted\n";
    static uint32_t block[2] = {0x20026u, 1u};
    register uint32_t r0 __asm__("r0") = 0x04;
    register const void *r1 __asm__("r1") = text;
    __asm__ volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
    r0 = 0x20;
    r1 = block;
    __asm__ volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
    for (;;) {
    }
}

static void on_reset(void) {
    COPROCESSORS |= 0xFu << 20; /* floating point and Helium */
    __asm__ volatile("dsb\n isb" ::: "memory");
    for (uint32_t *to = board_data, *from = board_data_from; to < board_data_end;) *to++ = *from++;
    for (uint32_t *to = board_bss; to < board_bss_end;) *to++ = 0;
    SYSTICK_RELOAD = FULL;
    SYSTICK_VALUE = 0;
    SYSTICK_CONTROL = 7;
    initialise_monitor_handles();
    exit(main());
}

__attribute__((section(".vectors"), used)) static void (*const vectors[16])(void) = {
    (void (*)(void))board_stack, on_reset, on_fault, on_fault, on_fault, on_fault, on_fault,
    on_fault, on_fault, on_fault, on_fault, on_fault, on_fault, on_fault, on_fault, on_tick,
};
