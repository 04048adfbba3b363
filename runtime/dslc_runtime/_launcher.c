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
 * itself, and the owner's next jobs leave that thread a CPU. Idle workers spin for a moment, spin on
 * while nobody else wants the CPU, then sleep on a futex. As many are woken as a job lacks, and each
 * once: it may take milliseconds until one has a CPU. Before that they are given CPUs away from the
 * caller's: left to itself, the system likes to wake a thread beside the one that woke it, where it
 * waits until the job is done.
 *
 * Non-goals: work stealing beyond whole tasks.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MAX_THREADS 256
#define SPIN_NANOSECONDS 50000    /* with the CPU kept */
#define YIELD_NANOSECONDS 1000000 /* with the CPU offered to others */
#define SMALL_NANOSECONDS 70000   /* a job that is over before a sleeping worker has come */
#define QUIET_NANOSECONDS 200000  /* without a job, after which one may be all there is */
#define REMEMBERED 256

typedef struct {
  void *sync_handle;
  int32_t num_task;
} Env;
typedef int (*Body)(int task, Env *env, void *data);

/* Written by the owner of the pool before a job is published, read by who took a task of it.
 * `modes`: how the owner's thread rounds, and whether it takes subnormal numbers for 0; its tasks
 * compute alike on all threads. */
static struct {
  Body body;
  void *data;
  Env env;
  uint64_t modes;
} job;

static _Atomic uint64_t state;  /* epoch << 32 | tasks << 16 | next */
static _Atomic uint32_t wake;   /* futex of idle workers: the epoch last published */
static _Atomic int sleepers;    /* workers that sleep, or are about to; one that is woken is no
                                   longer one, even if it takes long until it has a CPU */
static _Atomic uint32_t done;   /* tasks finished; futex of the waiting owner */
static _Atomic int owner_waits;
static _Atomic int failed;
static _Atomic int taken;       /* the pool has an owner */
static _Atomic int alone;       /* callers that run their tasks themselves, as the pool was taken */
/* Touched by the owner only. */
static int workers;                  /* threads started */
static pthread_t started[MAX_THREADS];
static cpu_set_t given[MAX_THREADS]; /* CPUs of each worker */
static int placed_from = -1;         /* the CPU that the caller was on then */
static int64_t last;                 /* when the last job ended */
static struct {
  Body body;
  int64_t took;
} seen[REMEMBERED]; /* jobs that met sleeping workers, and how long they took */
static _Atomic int threads = 1; /* of a job, by default */
static _Thread_local int limit; /* of this thread's jobs; 0: no limit of its own */
static _Thread_local int inside;
static _Atomic int arrived;     /* tasks that wait at a barrier */
static _Atomic uint32_t turns;  /* barriers passed */
static void (*set_error)(const char *kind, const char *message);

static void pause_cpu(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

#if defined(__x86_64__)
#define SUBNORMALS_ARE_ZERO 0x8040 /* MXCSR: FTZ for results, DAZ for operands */
#define FLAGS 0x3f                 /* of what happened, which are no modes */
static uint64_t get_modes(void) { return __builtin_ia32_stmxcsr() & ~(uint64_t)FLAGS; }
static void set_modes(uint64_t modes) { __builtin_ia32_ldmxcsr((unsigned)modes); }
#elif defined(__aarch64__)
#define SUBNORMALS_ARE_ZERO 0x1000000 /* FPCR.FZ */
static uint64_t get_modes(void) {
  uint64_t modes;
  __asm__ volatile("mrs %0, fpcr" : "=r"(modes));
  return modes;
}
static void set_modes(uint64_t modes) { __asm__ volatile("msr fpcr, %0" : : "r"(modes)); }
#else
#define SUBNORMALS_ARE_ZERO 0
static uint64_t get_modes(void) { return 0; }
static void set_modes(uint64_t modes) { (void)modes; }
#endif

static int64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Whether `wake_up` ended it; else the word was another one by then, or a signal came. */
static int sleep_on(_Atomic uint32_t *word, uint32_t seen) {
  return syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0) == 0;
}

/* How many it woke. */
static int wake_up(_Atomic uint32_t *word, int count) {
  long woken = syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
  return woken > 0 ? (int)woken : 0;
}

static int tasks_left(uint64_t s) { return (s & 0xffff) < ((s >> 16) & 0xffff); }

/* Runs a task that was taken of the current job, which can't be replaced before the task is counted
 * as done. */
static void run_task(int task, uint32_t tasks) {
  if (get_modes() != job.modes) set_modes(job.modes);
  if (job.body(task, &job.env, job.data) != 0) atomic_store(&failed, 1);
  if (atomic_fetch_add(&done, 1) + 1 == tasks && atomic_load(&owner_waits)) wake_up(&done, 1);
}

/* Takes and runs tasks of the current job until none is left. */
static int run_tasks(void) {
  int ran = 0;
  uint64_t s = atomic_load_explicit(&state, memory_order_acquire);
  while (tasks_left(s)) {
    if (!atomic_compare_exchange_weak_explicit(&state, &s, s + 1, memory_order_acq_rel,
                                               memory_order_acquire))
      continue;
    run_task((int)(s & 0xffff), (s >> 16) & 0xffff);
    ran = 1;
    s = atomic_load_explicit(&state, memory_order_acquire);
  }
  return ran;
}

/* One turn of waiting since `start` (0: from now on). False when it has lasted so long that the
 * thread should sleep. */
static int wait_a_moment(int spins, int64_t *start) {
  if (spins % 64 != 0) {
    pause_cpu();
    return 1;
  }
  int64_t time = now();
  if (*start == 0) *start = time;
  if (time - *start >= SPIN_NANOSECONDS) sched_yield();
  return time - *start < YIELD_NANOSECONDS;
}

static void *worker(void *unused) {
  (void)unused;
  inside = 1;
  int64_t idle_since = 0;
  for (int spins = 0;; spins++) {
    uint32_t epoch = atomic_load(&wake);
    if (run_tasks()) {
      idle_since = 0;
    } else if (!wait_a_moment(spins, &idle_since)) {
      atomic_fetch_add(&sleepers, 1);
      int woken = !tasks_left(atomic_load(&state)) && sleep_on(&wake, epoch);
      if (!woken) atomic_fetch_sub(&sleepers, 1);
      idle_since = 0;
    }
  }
  return NULL;
}

/* The CPUs of worker `number`: of those that the caller may use, none is the caller's. As many
 * workers as there are others get one each; fewer may move among all of them. */
static cpu_set_t cpus_for(int number, const cpu_set_t *all, int here) {
  cpu_set_t others = *all;
  if (here >= 0) CPU_CLR(here, &others);
  int count = CPU_COUNT(&others);
  if (count == 0) return *all;
  if (workers < count) return others;
  int skip = number % count, cpu = 0;
  for (;; cpu++)
    if (CPU_ISSET(cpu, &others) && skip-- == 0) break;
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(cpu, &one);
  return one;
}

/* Gives the workers their CPUs: the caller may have moved, or may use others by now. */
static void place_workers(int here) {
  cpu_set_t all;
  if (sched_getaffinity(0, sizeof all, &all) != 0) return;
  placed_from = here;
  for (int i = 0; i < workers; i++) {
    cpu_set_t cpus = cpus_for(i, &all, here);
    if (CPU_EQUAL(&cpus, &given[i])) continue;
    given[i] = cpus;
    pthread_setaffinity_np(started[i], sizeof cpus, &cpus);
  }
}

/* Brings the pool to `wanted` workers, or as many as the system grants. Signals stay with others. */
static void start_workers(int wanted) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  while (workers < wanted &&
         pthread_create(&started[workers], &attributes, worker, NULL) == 0) {
    CPU_ZERO(&given[workers]);
    workers++;
  }
  pthread_attr_destroy(&attributes);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void wait_for(uint32_t tasks) {
  uint32_t seen;
  int64_t start = 0;
  for (int spins = 1; (seen = atomic_load(&done)) != tasks; spins++) {
    if (!wait_a_moment(spins, &start)) {
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

/* Runs a job without a number of tasks as one, if waking workers for it would take as long: it was
 * small when it was last met so, and does not seem to be one of many. The caller owns the pool,
 * whose workers sleep. */
static int run_if_small(Body body, void *data, int *result) {
  size_t place = (uintptr_t)body / 16 % REMEMBERED;
  int64_t begin = now();
  int small = seen[place].body == body && seen[place].took < SMALL_NANOSECONDS;
  if (!small || begin - last < QUIET_NANOSECONDS) return 0;
  *result = run_alone(body, data, 1);
  last = now();
  seen[place].took = last - begin;
  return 1;
}

static void remember(Body body, int64_t took) {
  size_t place = (uintptr_t)body / 16 % REMEMBERED;
  seen[place].body = body;
  seen[place].took = took;
}

/* How many workers must be woken, so that `wanted` are awake. */
static int too_few(int wanted) { return wanted - (workers - atomic_load(&sleepers)); }

/* Runs the job on the pool, which the caller owns. Without a number of tasks each thread that there
 * is gets one, so that they may wait for each other (`dslc_barrier`). The first is always the
 * caller's: what it wrote in one job lies in its cache when it reads the same rows in the next. */
static int run_together(Body body, void *data, int tasks, int most) {
  int fresh = workers < most - 1, asleep = too_few(most - 1) > 0, result;
  if (asleep && !fresh && tasks == 0 && run_if_small(body, data, &result)) return result;
  if (fresh) start_workers(most - 1);
  int64_t begin = asleep ? now() : 0;
  if (tasks == 0) tasks = workers < most - 1 ? workers + 1 : most;
  job.body = body;
  job.data = data;
  job.env = (Env){0, tasks};
  job.modes = get_modes();
  atomic_store(&done, 0);
  atomic_store(&failed, 0);
  uint32_t epoch = atomic_load(&wake) + 1;
  atomic_store(&state, (uint64_t)epoch << 32 | (uint64_t)tasks << 16 | 1);
  atomic_store(&wake, epoch);
  int here = sched_getcpu();
  int lacking = too_few(most - 1);
  if (fresh || lacking > 0 || here != placed_from) place_workers(here);
  if (lacking > 0) atomic_fetch_sub(&sleepers, wake_up(&wake, lacking));
  inside = 1;
  run_task(0, (uint32_t)tasks);
  run_tasks();
  inside = 0;
  wait_for((uint32_t)tasks);
  last = now();
  if (begin) remember(body, last - begin);
  return report(atomic_load(&failed));
}

/* TVMBackendParallelLaunch. num_task 0: one task per thread. */
int dslc_launch(Body body, void *data, int num_task) {
  int most = limit ? limit : atomic_load_explicit(&threads, memory_order_relaxed);
  if (num_task == 1 || most == 1 || num_task > 0xffff || inside)
    return run_alone(body, data, num_task > 0 ? num_task : 1);
  most -= atomic_load_explicit(&alone, memory_order_relaxed);
  int result;
  if (most <= 1 || atomic_exchange(&taken, 1)) {
    atomic_fetch_add(&alone, 1);
    result = run_alone(body, data, num_task > 0 ? num_task : 1);
    atomic_fetch_sub(&alone, 1);
  } else {
    result = run_together(body, data, num_task, most);
    atomic_store(&taken, 0);
  }
  return result;
}

/* TVMBackendParallelBarrier: no task goes on before all of its job have come here. Of a job without
 * num_task only, whose every task has a thread of its own, and whose tasks never fail. */
int dslc_barrier(int task, Env *env) {
  (void)task;
  if (env->num_task == 1) return 0;
  uint32_t turn = atomic_load(&turns);
  if (atomic_fetch_add(&arrived, 1) + 1 == env->num_task) {
    atomic_store(&arrived, 0);
    atomic_store(&turns, turn + 1);
    return 0;
  }
  int64_t start = 0;
  for (int spins = 1; atomic_load_explicit(&turns, memory_order_acquire) == turn; spins++)
    wait_a_moment(spins, &start);
  return 0;
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
  placed_from = -1;
  atomic_store(&alone, 0);
  atomic_store(&arrived, 0);
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

/* Whether the calling thread takes subnormal numbers for 0 from now on; whether it did. */
int dslc_flush_subnormals(int on) {
  uint64_t modes = get_modes();
  uint64_t wanted = on ? modes | SUBNORMALS_ARE_ZERO : modes & ~(uint64_t)SUBNORMALS_ARE_ZERO;
  if (wanted != modes) set_modes(wanted);
  return (modes & SUBNORMALS_ARE_ZERO) != 0;
}

int dslc_start(int count, void (*error)(const char *, const char *)) {
  set_error = error;
  dslc_set_threads(count);
  return pthread_atfork(NULL, NULL, after_fork);
}
