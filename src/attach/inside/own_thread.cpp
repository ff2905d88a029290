#include "attach/inside/own_thread.h"

#include <csignal>
#include <system_error>
#include <thread>

namespace attnscope::attach {

bool start_own_thread(void (*run)()) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    bool started = true;
    try {
        std::thread(run).detach();
    } catch (const std::system_error&) {
        started = false;
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return started;
}

} // namespace attnscope::attach
