"""System calls by what becomes of them in a candidate: ``name x86_64 aarch64`` from Linux's unistd tables.

``ALLOWED`` run, ``REFUSED`` fail, ``ATTACKS`` kill the process, ``JUDGED`` depend on their arguments (``seccomp.py``),
and every other one does not exist (ENOSYS). A dash says that the machine has no such call.
"""

from __future__ import annotations

MACHINES = ("x86_64", "aarch64")


def _table(text: str) -> dict[str, dict[str, int]]:
    rows = (row.split() for row in text.replace("\n", " ").split(";"))
    return {
        name: {machine: int(n) for machine, n in zip(MACHINES, numbers, strict=True) if n != "-"}
        for name, *numbers in rows
    }


# Computing, files, time, threads: what a single-process Python program needs.
ALLOWED = _table("""
read 0 63; write 1 64; readv 19 65; writev 20 66; pread64 17 67; pwrite64 18 68; preadv 295 69; pwritev 296
70; preadv2 327 286; pwritev2 328 287; close 3 57; close_range 436 436; creat 85 -; lseek 8 62; fstat 5 80;
newfstatat 262 79; stat 4 -; lstat 6 -; statx 332 291; statfs 137 43; fstatfs 138 44; access 21 -; faccessat
269 48; faccessat2 439 439; getdents 78 -; getdents64 217 61; getcwd 79 17; chdir 80 49; fchdir 81 50; mkdir
83 -; mkdirat 258 34; rmdir 84 -; unlink 87 -; unlinkat 263 35; symlink 88 -; symlinkat 266 36; link 86 -;
linkat 265 37; rename 82 -; renameat 264 38; renameat2 316 276; ftruncate 77 46; fallocate 285 47; readlink 89
-; readlinkat 267 78; umask 95 166; fsync 74 82; fdatasync 75 83; sync_file_range 277 84; fadvise64 221 223;
flock 73 32; sendfile 40 71; copy_file_range 326 285; splice 275 76; tee 276 77; dup 32 23; dup2 33 -; dup3
292 24; pipe 22 -; pipe2 293 59; poll 7 -; ppoll 271 73; select 23 -; pselect6 270 72; eventfd 284 -; eventfd2
290 19; epoll_create 213 -; epoll_create1 291 20; epoll_ctl 233 21; epoll_wait 232 -; epoll_pwait 281 22;
epoll_pwait2 441 441; brk 12 214; mmap 9 222; munmap 11 215; mremap 25 216; mprotect 10 226; madvise 28 233;
mincore 27 232; msync 26 227; mlock 149 228; munlock 150 229; futex 202 98; futex_waitv 449 449;
set_robust_list 273 99; get_robust_list 274 100; rseq 334 293; membarrier 324 283; set_tid_address 218 96;
nanosleep 35 101; clock_gettime 228 113; clock_getres 229 114; clock_nanosleep 230 115; gettimeofday 96 169;
time 201 -; getitimer 36 102; setitimer 38 103; alarm 37 -; pause 34 -; timer_create 222 107; timer_settime
223 110; timer_gettime 224 108; timer_getoverrun 225 109; timer_delete 226 111; timerfd_create 283 85;
timerfd_settime 286 86; timerfd_gettime 287 87; sched_yield 24 124; sched_getaffinity 204 123; sched_getparam
143 121; sched_getscheduler 145 120; sched_get_priority_max 146 125; sched_get_priority_min 147 126;
getpriority 140 141; getcpu 309 168; rt_sigaction 13 134; rt_sigprocmask 14 135; rt_sigpending 127 136;
rt_sigtimedwait 128 137; rt_sigsuspend 130 133; rt_sigreturn 15 139; sigaltstack 131 132; restart_syscall 219
128; times 100 153; uname 63 160; getrusage 98 165; getrlimit 97 163; sysinfo 99 179; getrandom 318 278;
arch_prctl 158 -; getpid 39 172; getppid 110 173; gettid 186 178; getuid 102 174; geteuid 107 175; getgid 104
176; getegid 108 177; getresuid 118 148; getresgid 120 150; getgroups 115 158; getpgid 121 155; getpgrp 111 -;
getsid 124 156; wait4 61 260; waitid 247 95; exit 60 93; exit_group 231 94
""")

# Landlock leaves these alone, by path or by a descriptor that only reads: with no file system of its own a candidate
# could close or empty what belongs to this user. They are not permitted (EPERM), wherever a file lies.
REFUSED = _table("""
truncate 76 45; chmod 90 -; fchmod 91 52; fchmodat 268 53; utime 132 -; utimes 235 -; utimensat 280 88;
futimesat 261 -
""")

# Processes, sockets, other processes' memory and signals, mounts, the kernel itself.
ATTACKS = _table("""
fork 57 -; vfork 58 -; execve 59 221; execveat 322 281; socket 41 198; connect 42 203; bind 49 200;
listen 50 201; accept 43 202; accept4 288 242; sendto 44 206; sendmsg 46 211; sendmmsg 307 269; recvmsg 47 212;
ptrace 101 117; process_vm_readv 310 270; process_vm_writev 311 271; process_madvise 440 440; tkill 200 130;
rt_sigqueueinfo 129 138; rt_tgsigqueueinfo 297 240; pidfd_open 434 434; pidfd_getfd 438 438;
pidfd_send_signal 424 424; mount 165 40; umount2 166 39; pivot_root 155 41; chroot 161 51; unshare 272 97;
setns 308 268; mount_setattr 442 442; open_tree 428 428; move_mount 429 429; fsopen 430 430; fsconfig 431 431;
fsmount 432 432; fspick 433 433; open_by_handle_at 304 265; bpf 321 280; perf_event_open 298 241;
userfaultfd 323 282; memfd_create 319 279; memfd_secret 447 447; keyctl 250 219; add_key 248 217;
request_key 249 218; io_uring_setup 425 425; io_uring_enter 426 426; io_uring_register 427 427;
init_module 175 105; finit_module 313 273; delete_module 176 106; kexec_load 246 104; kexec_file_load 320 294;
reboot 169 142; swapon 167 224; swapoff 168 225; acct 163 89; quotactl 179 60; iopl 172 -; ioperm 173 -;
modify_ldt 154 -; settimeofday 164 170; clock_settime 227 112; sethostname 170 161; setdomainname 171 162;
setrlimit 160 164
""")

JUDGED = _table("""
clone 56 220; clone3 435 435; kill 62 129; tgkill 234 131; ioctl 16 29; fcntl 72 25; prlimit64 302 261;
prctl 157 167; open 2 -; openat 257 56
""")
