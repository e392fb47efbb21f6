# The functions that the compiler calls for copies and comparisons. (AT&T syntax, System V ABI.)
.text
.globl memcpy, memmove, memset, memcmp, bcmp, strlen

memcpy:
  mov %rdi, %rax
  mov %rdx, %rcx
  rep movsb
  ret

memmove:
  mov %rdi, %rax
  mov %rdx, %rcx
  mov %rdi, %r8
  sub %rsi, %r8
  cmp %rdx, %r8             # destination inside the source: from the end
  jb 1f
  rep movsb
  ret
1:
  lea -1(%rdi, %rdx), %rdi
  lea -1(%rsi, %rdx), %rsi
  std
  rep movsb
  cld
  ret

memset:
  mov %rdi, %r8
  mov %esi, %eax
  mov %rdx, %rcx
  rep stosb
  mov %r8, %rax
  ret

memcmp:
bcmp:
  xor %ecx, %ecx
1:
  cmp %rdx, %rcx
  je 2f
  movzbl (%rdi, %rcx), %eax
  movzbl (%rsi, %rcx), %r8d
  inc %rcx
  sub %r8d, %eax
  je 1b
  ret
2:
  xor %eax, %eax
  ret

strlen:
  xor %eax, %eax
1:
  cmpb $0, (%rdi, %rax)
  je 2f
  inc %rax
  jmp 1b
2:
  ret
