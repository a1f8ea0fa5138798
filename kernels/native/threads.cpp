#include "threads.h"

#include <pthread.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "library.h"

namespace pagestream {
namespace {

constexpr auto kLookout = std::chrono::microseconds(100);

void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

class Team {
  public:
    void resize(int num_threads) {
        std::lock_guard<std::mutex> guard(callers_);
        num_helpers_ = num_threads - 1;
        for (; num_started_ < num_helpers_; ++num_started_) std::thread(&Team::help, this, num_started_).detach();
    }

    void share_out(long count, void (*run)(const void*, long), const void* context) {
        std::unique_lock<std::mutex> guard(callers_, std::try_to_lock);
        if (!guard || num_helpers_ == 0) {
            for (long i = 0; i < count; ++i) run(context, i);
            return;
        }
        open(count, run, context);
        wake();
        while (take_one()) {
        }
        await(count);
    }

    long num_threads() const { return num_helpers_.load(std::memory_order_relaxed) + 1; }

  private:
    // The loop's number in the high half, the next item in the low half. A helper takes an item by adding one to the
    // whole word, which fails if the loop it has looked at is over.
    static constexpr uint64_t kNextLoop = 1ull << 32, kItem = kNextLoop - 1;

    void open(long count, void (*run)(const void*, long), const void* context) {
        const uint64_t loop = (next_.load() & ~kItem) + kNextLoop;
        next_.store(loop | kItem);  // closed while the fields change
        std::atomic_thread_fence(std::memory_order_release);  // before they do, on every processor
        count_.store(count, std::memory_order_relaxed);
        run_.store(run, std::memory_order_relaxed);
        context_.store(context, std::memory_order_relaxed);
        done_.store(0, std::memory_order_relaxed);
        next_.store(loop + kNextLoop);
    }

    bool take_one() {
        uint64_t word = next_.load(std::memory_order_acquire);
        for (;;) {
            const long item = (long)(word & kItem);
            const auto run = run_.load(std::memory_order_relaxed);
            const auto context = context_.load(std::memory_order_relaxed);
            if (item >= count_.load(std::memory_order_relaxed)) return false;
            if (next_.compare_exchange_weak(word, word + 1, std::memory_order_acq_rel)) {
                run(context, item);
                done_.fetch_add(1, std::memory_order_release);
                return true;
            }
        }
    }

    // A helper that has taken an item may have lost its core.
    void await(long count) {
        for (int i = 0; done_.load(std::memory_order_acquire) < count; ++i) {
            if (i < 4096)
                relax();
            else
                std::this_thread::yield();
        }
    }

    void wake() {
        if (num_asleep_.load() == 0) return;
        std::lock_guard<std::mutex> guard(bedroom_);
        alarm_.notify_all();
    }

    void help(int index) {
        for (;;) {
            if (index >= num_helpers_.load(std::memory_order_relaxed) || !look_out()) sleep();
        }
    }

    // Work as long as loops follow each other closely.
    bool look_out() {
        const auto start = std::chrono::steady_clock::now();
        do {
            for (int i = 0; i < 32; ++i) {
                if (take_one()) {
                    while (take_one()) {
                    }
                    return true;
                }
                relax();
            }
        } while (std::chrono::steady_clock::now() - start < kLookout);
        return false;
    }

    void sleep() {
        std::unique_lock<std::mutex> guard(bedroom_);
        num_asleep_.fetch_add(1);
        const uint64_t seen = next_.load();
        if ((long)(seen & kItem) >= count_.load()) alarm_.wait(guard, [&] { return next_.load() >> 32 != seen >> 32; });
        num_asleep_.fetch_sub(1);
    }

    alignas(64) std::atomic<uint64_t> next_{kItem};
    alignas(64) std::atomic<long> done_{0};
    alignas(64) std::atomic<long> count_{0};
    std::atomic<void (*)(const void*, long)> run_{nullptr};
    std::atomic<const void*> context_{nullptr};
    alignas(64) std::atomic<int> num_asleep_{0};
    std::atomic<int> num_helpers_{0};
    int num_started_ = 0;
    std::mutex callers_, bedroom_;
    std::condition_variable alarm_;
};

// Never destroyed: helpers use it until the process ends. A process that is forked has the memory of a team without its
// threads, and perhaps a lock that none of them will ever open: it begins with a new one.
Team* team = new Team;

[[maybe_unused]] const int kForksAreHeeded = pthread_atfork(nullptr, nullptr, [] { team = new Team; });

}  // namespace

void share_out(long count, void (*run)(const void*, long), const void* context) {
    team->share_out(count, run, context);
}

long num_threads() { return team->num_threads(); }

}  // namespace pagestream

void set_num_threads(int64_t count) { pagestream::team->resize((int)count); }
