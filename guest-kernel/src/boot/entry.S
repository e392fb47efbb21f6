# The CPL0 part of the guest: entry, exceptions, the few services that need CPL0. A KVM host without
# hardware virtualization emulates all of this instruction by instruction: it stays short and plain.
# (AT&T syntax. Everything lies below 2 GiB, so 32-bit immediates hold addresses.)

.set KERNEL_CODE, 0x08
.set KERNEL_DATA, 0x10
.set USER_DATA, 0x18 | 3
.set USER_CODE, 0x20 | 3
.set TSS_SELECTOR, 0x28

# A vCPU's block, aligned to its size, at image_end + index * CPU_BLOCK.
.set CPU_BLOCK, 0x10000
.set CPU_BLOCK_SHIFT, 16
.set CPU_GDT, 0x0           # 7 entries
.set CPU_GDTR, 0x40
.set CPU_TSS, 0x80          # TSS, then the I/O bitmap
.set CPU_SERVICE_STACK, 0x1000
.set CPU_TRAP_STACK, 0x2000 # IST1
.set CPU_REPORT_STACK, 0x6000
.set CPU_STACK, 0x10000

.set TSS_SIZE, 0x68
.set IO_BITMAP_SIZE, 0x80   # ports 0 to 0x3ff, all open to CPL3

.section .text.boot, "ax"
.code64

# 64-bit entry: RDI = index of the vCPU, RSI = hvm_start_info.
.globl start64
start64:
  xor %r12d, %r12d
from_pvh:                   # R12 = 1 if entered through the PVH note
  cld
  mov %rdi, %r13
  mov %rsi, %r14
  mov %edi, %ebp
  shl $CPU_BLOCK_SHIFT, %ebp
  add $image_end, %ebp      # RBP = this vCPU's block

  mov $gdt_template, %esi
  lea CPU_GDT(%rbp), %edi
  mov $5, %ecx
  rep movsq

  lea CPU_TSS(%rbp), %edi   # clear TSS and bitmap: nothing says that this memory is zero
  xor %eax, %eax
  mov $(TSS_SIZE + IO_BITMAP_SIZE) / 8, %ecx
  rep stosq
  movb $0xff, (%rdi)        # the bitmap's last byte, of ones
  movw $TSS_SIZE, CPU_TSS + 0x66(%rbp)
  lea CPU_SERVICE_STACK(%rbp), %eax
  mov %rax, CPU_TSS + 0x04(%rbp)
  lea CPU_TRAP_STACK(%rbp), %eax
  mov %rax, CPU_TSS + 0x24(%rbp)

  lea CPU_TSS(%rbp), %eax   # descriptor of the TSS
  movw $TSS_SIZE + IO_BITMAP_SIZE, CPU_GDT + 0x28(%rbp)
  mov %ax, CPU_GDT + 0x2a(%rbp)
  shr $16, %eax
  mov %al, CPU_GDT + 0x2c(%rbp)
  movw $0x0089, CPU_GDT + 0x2d(%rbp)
  mov %ah, CPU_GDT + 0x2f(%rbp)
  movq $0, CPU_GDT + 0x30(%rbp)

  movw $7 * 8 - 1, CPU_GDTR(%rbp)
  mov %rbp, CPU_GDTR + 2(%rbp)
  lgdt CPU_GDTR(%rbp)
  lidt idt_register
  mov $TSS_SELECTOR, %eax
  ltr %ax
  mov $KERNEL_DATA, %eax
  mov %eax, %ss
  xor %eax, %eax
  mov %eax, %ds
  mov %eax, %es

  # To CPL3: guest_main(index, start_info, by_pvh), interrupts off for good.
  lea CPU_SERVICE_STACK(%rbp), %rsp
  pushq $USER_DATA
  lea CPU_STACK - 8(%rbp), %rax
  push %rax
  pushq $2
  pushq $USER_CODE
  pushq $guest_main
  mov %r13, %rdi
  mov %r14, %rsi
  mov %r12, %rdx
  iretq

# 32-bit PVH entry: protected mode, paging off, EBX = hvm_start_info. One vCPU.
.code32
.globl start_pvh
start_pvh:
  cli
  mov $0x620, %eax          # PAE, OSFXSR, OSXMMEXCPT
  mov %eax, %cr4
  mov $pvh_pml4, %eax
  mov %eax, %cr3
  mov $0xc0000080, %ecx     # EFER: LME, NXE
  xor %edx, %edx
  mov $0x900, %eax
  wrmsr
  mov $0x80050033, %eax     # PG, AM, WP, NE, ET, MP, PE
  mov %eax, %cr0
  lgdt gdt_template_register
  ljmp $KERNEL_CODE, $pvh64
.code64
pvh64:
  xor %edi, %edi
  mov %ebx, %esi
  xor %r12d, %r12d
  inc %r12d
  jmp from_pvh

# Exceptions. None is expected but int3, so none returns: what happened goes to CPL3, which prints it.
.macro TRAP vector, has_error
trap_\vector:
  .if \has_error == 0
  pushq $0
  .endif
  pushq $\vector
  jmp trap
.endm

.altmacro
.set vector, 0
.rept 32
  .if (vector == 8) || ((vector >= 10) && (vector <= 14)) || (vector == 17) || (vector == 21) || (vector == 29) || (vector == 30)
  TRAP %vector, 1
  .else
  TRAP %vector, 0
  .endif
  .set vector, vector + 1
.endr

trap:                       # trap_report(vector, error, rip, cr2) on its own stack
  pop %rdi
  pop %rsi
  pop %rdx
  mov %cr2, %rcx
  lea -1(%rsp), %rax
  and $-CPU_BLOCK, %rax
  add $CPU_REPORT_STACK - 8, %rax
  pushq $USER_DATA
  push %rax
  pushq $2
  pushq $USER_CODE
  pushq $trap_report
  iretq

# int3 from CPL3: service EAX; see kernel/cpu.rs.
service:
  test %eax, %eax
  jz 1f
  dec %eax
  jz 2f
  dec %eax
  jz 3f
  dec %eax
  jz 5f
  mov %cr3, %rax            # 4: which page tables
  iretq
1:                          # 0: halt
  hlt
  iretq
2:                          # 1: triple fault
  lidt empty_idt_register
  ud2
3:                          # 2: store its own address at the start of RCX pages from RDI
  mov %rdi, (%rdi)
  add $4096, %rdi
  dec %rcx
  jnz 3b
  iretq
5:                          # 3: add to RDX the first word of RCX pages from RDI
  add (%rdi), %rdx
  add $4096, %rdi
  dec %rcx
  jnz 5b
  iretq

.section .rodata.boot, "a"
.balign 8
gdt_template:
  .quad 0
  .quad 0x00af9b000000ffff  # 64-bit code, CPL0
  .quad 0x00cf93000000ffff  # data, CPL0
  .quad 0x00cff3000000ffff  # data, CPL3
  .quad 0x00affb000000ffff  # 64-bit code, CPL3
gdt_template_register:
  .word 5 * 8 - 1
  .quad gdt_template
idt_register:
  .word 32 * 16 - 1
  .quad interrupt_table
empty_idt_register:
  .word 0
  .quad 0

# What the CPL3 side puts into the interrupt table.
.balign 8
.globl trap_entries
trap_entries:
.macro ENTRY vector
  .quad trap_\vector
.endm
.set vector, 0
.rept 32
  ENTRY %vector
  .set vector, vector + 1
.endr
.globl service_entry
service_entry: .quad service

.section .note.Xen, "a", @note
.balign 4
  .long 4, 4, 18            # XEN_ELFNOTE_PHYS32_ENTRY
  .asciz "Xen"
  .long start_pvh

# Page tables of the PVH entry, ready in the image: identity map of the first 4 GiB, open to CPL3.
.section .data.pvh_tables, "aw"
.balign 4096
pvh_pml4:
  .quad pvh_pdpt + 7
  .fill 511, 8, 0
pvh_pdpt:
  .quad pvh_directories + 0x0007
  .quad pvh_directories + 0x1007
  .quad pvh_directories + 0x2007
  .quad pvh_directories + 0x3007
  .fill 508, 8, 0
pvh_directories:
.set block, 0
.rept 2048
  .quad block + 0x87
  .set block, block + 0x200000
.endr

.section .bss.boot, "aw", @nobits
.balign 4096
.globl interrupt_table
interrupt_table: .skip 4096
.text
