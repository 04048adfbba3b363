/* Runs the parallel loops of compiled kernels on a pool of threads.
 *
 * Input: TVM's launch call, `launch(body, data, num_task)`, from any thread. Output: body has run for
 * every task. Built as a plain shared object that depends on libc alone; launcher.py hands it what
 * it needs of libtvm_ffi and registers its functions. Design: docs/design/0002-thread-launcher.md.
 *
 * One pool per process. A job is one 64-bit word, (epoch, tasks, next task), and a thread takes a
 * task by advancing `next` with compare-and-swap. The caller takes tasks too, so a worker that is
 * late costs nothing but its help, and a job never waits for a thread that has not started on it.
 * Whoever finds the pool taken (another caller, or a parallel loop inside a task) runs its tasks
 * itself. Idle workers spin for a moment, then sleep on a futex.
 *
 * Non-goals: barriers between tasks (no kernel of ours has one), thread affinity, work stealing
 * beyond whole tasks.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MAX_THREADS 256
#define SPIN_NANOSECONDS 50000

typedef struct {
  void *sync_handle;
  int32_t num_task;
} Env;
typedef int (*Body)(int task, Env *env, void *data);

/* Written by the owner of the pool before a job is published, read by who took a task of it. */
static struct {
  Body body;
  void *data;
  Env env;
} job;

static _Atomic uint64_t state;  /* epoch << 32 | tasks << 16 | next */
static _Atomic uint32_t wake;   /* futex of idle workers: the epoch last published */
static _Atomic int sleepers;
static _Atomic uint32_t done;   /* tasks finished; futex of the waiting owner */
static _Atomic int owner_waits;
static _Atomic int failed;
static _Atomic int taken;       /* the pool has an owner */
static int workers;             /* threads started; touched by the owner only */
static _Atomic int threads = 1; /* of a job, by default */
static _Thread_local int limit; /* of this thread's jobs; 0: no limit of its own */
static _Thread_local int inside;
static void (*set_error)(const char *kind, const char *message);

static void pause_cpu(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

static int64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void sleep_on(_Atomic uint32_t *word, uint32_t seen) {
  syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

static void wake_up(_Atomic uint32_t *word, int count) {
  syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
}

static int tasks_left(uint64_t s) { return (s & 0xffff) < ((s >> 16) & 0xffff); }

/* Takes and runs tasks of the current job until none is left. */
static int run_tasks(void) {
  int ran = 0;
  uint64_t s = atomic_load_explicit(&state, memory_order_acquire);
  while (tasks_left(s)) {
    if (!atomic_compare_exchange_weak_explicit(&state, &s, s + 1, memory_order_acq_rel,
                                               memory_order_acquire))
      continue;
    uint32_t tasks = (s >> 16) & 0xffff;
    /* The job can't be replaced before this task is counted as done. */
    if (job.body((int)(s & 0xffff), &job.env, job.data) != 0) atomic_store(&failed, 1);
    ran = 1;
    if (atomic_fetch_add(&done, 1) + 1 == tasks && atomic_load(&owner_waits)) wake_up(&done, 1);
    s = atomic_load_explicit(&state, memory_order_acquire);
  }
  return ran;
}

static void *worker(void *unused) {
  (void)unused;
  inside = 1;
  int64_t idle_since = now();
  for (int spins = 0;; spins++) {
    uint32_t epoch = atomic_load(&wake);
    if (run_tasks()) {
      idle_since = now();
    } else if (spins % 64 != 0 || now() - idle_since < SPIN_NANOSECONDS) {
      pause_cpu();
    } else {
      atomic_fetch_add(&sleepers, 1);
      if (!tasks_left(atomic_load(&state))) sleep_on(&wake, epoch);
      atomic_fetch_sub(&sleepers, 1);
      idle_since = now();
    }
  }
  return NULL;
}

/* Brings the pool to `wanted` workers, or as many as the system grants. Signals stay with others. */
static void start_workers(int wanted) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  pthread_t thread;
  while (workers < wanted && pthread_create(&thread, &attributes, worker, NULL) == 0) workers++;
  pthread_attr_destroy(&attributes);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void wait_for(uint32_t tasks) {
  uint32_t seen;
  int64_t start = 0;
  for (int spins = 1; (seen = atomic_load(&done)) != tasks; spins++) {
    if (spins % 64 != 0) {
      pause_cpu();
    } else if (start == 0 || now() - start < SPIN_NANOSECONDS) {
      start = start ? start : now();
    } else {
      atomic_store(&owner_waits, 1);
      if ((seen = atomic_load(&done)) != tasks) sleep_on(&done, seen);
      atomic_store(&owner_waits, 0);
    }
  }
}

static int report(int failure) {
  if (failure && set_error) set_error("RuntimeError", "a task of a parallel kernel failed");
  return failure ? -1 : 0;
}

static int run_alone(Body body, void *data, int tasks) {
  Env env = {0, tasks};
  int failure = 0;
  for (int task = 0; task < tasks; task++) failure |= body(task, &env, data) != 0;
  return report(failure);
}

/* TVMBackendParallelLaunch. num_task 0: one task per thread. */
int dslc_launch(Body body, void *data, int num_task) {
  int most = limit ? limit : atomic_load_explicit(&threads, memory_order_relaxed);
  int tasks = num_task > 0 ? num_task : most;
  if (tasks == 1 || most == 1 || tasks > 0xffff || inside || atomic_exchange(&taken, 1))
    return run_alone(body, data, num_task > 0 ? num_task : 1);
  if (workers < most - 1) start_workers(most - 1);
  job.body = body;
  job.data = data;
  job.env = (Env){0, tasks};
  atomic_store(&done, 0);
  atomic_store(&failed, 0);
  uint32_t epoch = atomic_load(&wake) + 1;
  atomic_store(&state, (uint64_t)epoch << 32 | (uint64_t)tasks << 16);
  atomic_store(&wake, epoch);
  if (atomic_load(&sleepers) > 0) wake_up(&wake, most - 1);
  inside = 1;
  run_tasks();
  inside = 0;
  wait_for((uint32_t)tasks);
  int failure = atomic_load(&failed);
  atomic_store(&taken, 0);
  return report(failure);
}

/* Kernels plan their memory in the arena; these serve code that asks for more all the same. */
void *dslc_alloc_workspace(int type, int id, uint64_t bytes, int code, int bits) {
  (void)type, (void)id, (void)code, (void)bits;
  return aligned_alloc(64, (bytes + 63) / 64 * 64 + 64);
}

int dslc_free_workspace(int type, int id, void *pointer) {
  (void)type, (void)id;
  free(pointer);
  return 0;
}

/* A forked child has no workers, and nobody in it owns the pool unless the forking thread does. */
static void after_fork(void) {
  workers = 0;
  atomic_store(&sleepers, 0);
  atomic_store(&owner_waits, 0);
  atomic_store(&state, 0);
  atomic_store(&taken, 0);
}

static int clamp(int count) { return count < 1 ? 1 : count > MAX_THREADS ? MAX_THREADS : count; }

/* Threads of a job, for the whole process. */
void dslc_set_threads(int count) { atomic_store(&threads, clamp(count)); }
int dslc_get_threads(void) { return atomic_load(&threads); }

/* Threads of jobs that this thread launches from now on; 0: as the process. */
void dslc_limit_threads(int count) { limit = count <= 0 ? 0 : clamp(count); }

int dslc_start(int count, void (*error)(const char *, const char *)) {
  set_error = error;
  dslc_set_threads(count);
  return pthread_atfork(NULL, NULL, after_fork);
}
