#include "attach/parent/record_caller.h"

#include "attach/parent/attached_settings.h"
#include "attach/parent/inbox.h"
#include "attach/parent/rests.h"

#include <csignal>
#include <memory>

#include <unistd.h>

namespace attnscope::attach {

namespace {

volatile sig_atomic_t asked_to_end = 0; // signal handlers can only reach globals
extern "C" void end_asked(int) {
    asked_to_end = 1;
}

void on_signal(int signal, void (*handler)(int)) {
    struct sigaction action {};
    action.sa_handler = handler;
    sigaction(signal, &action, nullptr);
}

} // namespace

Result<AttachEnd> record_caller(const AttachOptions& options,
                                const std::function<void(const std::string&, const std::string&)>& ready) {
    const pid_t caller = getppid();
    on_signal(SIGINT, SIG_IGN); // the terminal's interrupts are the caller's affair
    on_signal(SIGTERM, end_asked), on_signal(SIGHUP, end_asked);
    Result<std::string> library = attach_library();
    if (!library) return library.error();
    const std::string settings = attached_settings(options.argv);
    const auto new_recorder = [&] { return std::make_unique<ProgramRecorder>(options.folder, settings, options.say); };
    Result<std::unique_ptr<Inbox>> made = Inbox::create(new_recorder, options.say);
    if (!made) return made.error();
    Inbox& inbox = **made;
    Rests rests(inbox, true);
    ready(*library, inbox.folder());
    while (asked_to_end == 0 && (getppid() == caller || inbox.programs_live())) {
        if (!rests.take()) rests.rest(rests.next(), {});
    }
    AttachEnd end;
    end.recorded = inbox.finish();
    end.any_scheduler = inbox.any_program();
    end.no_room = inbox.any_without_room();
    end.asked_to_end = asked_to_end != 0;
    return end;
}

} // namespace attnscope::attach
