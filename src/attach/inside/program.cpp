#include "attach/inside/program.h"

#include "attach/inside/call_sites.h"
#include "attach/inside/later.h"
#include "attach/inside/loaded.h"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include <unistd.h>

namespace attnscope::attach {

namespace {

// One a process, and never destroyed: threads of the program may compute while it ends.
struct Program {
    std::mutex mutex;
    std::mutex out_mutex; // held while a message waits for room
    std::unique_ptr<Outbox> outbox;
    const void* ggml = nullptr;      // what stands for the ggml that is in the table
    std::map<link_map*, bool> known; // objects that call a scheduler: is theirs captured?
    std::map<ggml_backend_sched_t, std::shared_ptr<Stream>> streams;
    std::vector<std::shared_ptr<Stream>> resting; // their schedulers have gone, their caches have not
    uint32_t n_streams = 0;
    bool told = false; // that the parent is gone
    bool greeted = false, told_unreached = false;
};

Program& program() {
    static Program& p = *new Program;
    return p;
}

constexpr const char* accelerator = "an accelerator of ggml's";

enum class State { unknown, off, on };
std::atomic<const char*> way{"interposed"};
std::atomic<State> state{State::unknown};
std::atomic<pid_t> owner{0}; // a child made by fork() has no ring, and may not write into its parent's

bool send(const Message& message) {
    Program& p = program();
    const std::lock_guard lock(p.out_mutex);
    if (!p.outbox) return false;
    if (p.outbox->send(message)) return true;
    if (!std::exchange(p.told, true)) {
        std::fputs("attnscope: nobody takes what is captured any more; the program goes on without\n", stderr);
    }
    state = State::off;
    return false;
}

bool later(Message&& message) {
    return send_later(std::move(message), send);
}

std::string engine_of(link_map* caller) {
    using Version = const char* (*)();
    const auto version = reinterpret_cast<Version>(find_function(caller, "ggml_version"));
    return version && version() ? std::string("ggml ") + version() : std::string("a ggml that tells no version");
}

// Why `ggml`, which `caller` uses, cannot be captured; empty: it can.
std::string connect(Program& p, link_map* caller, const void* ggml, const std::function<Probed()>& probe) {
    if (p.ggml) return p.ggml == ggml ? "" : "a second copy of ggml is loaded, and one is captured already";
    const Probed found = probe();
    if (!found.refusal.empty()) return found.refusal;
    use_ggml(caller, found);
    p.ggml = ggml;
    return {};
}

bool open_outbox(Program& p) {
    if (p.outbox) return true;
    const char* folder = attach_folder();
    Result<std::unique_ptr<Outbox>> outbox = Outbox::create(folder ? folder : "");
    if (!outbox) {
        std::fprintf(stderr, "attnscope: %s; nothing is captured\n", outbox.error().message.c_str());
        state = State::off;
        return false;
    }
    p.outbox = std::move(*outbox);
    return true;
}

void greet(Program& p, link_map* caller, const char* how) {
    if (!std::exchange(p.greeted, true))
        send(Hello{getpid(), path_of(nullptr), path_of(caller), engine_of(caller), how});
}

// Is this process the one that may speak, and does anybody listen?
bool is_on() {
    if (state == State::off) return false;
    if (state == State::unknown) {
        pid_t nobody = 0;
        owner.compare_exchange_strong(nobody, getpid());
        state = attach_folder() ? State::on : State::off;
        if (state == State::off) return false;
    }
    return owner == getpid();
}

bool captured(Program& p, link_map* caller, const char* how, const void* ggml, const std::function<Probed()>& probe) {
    if (!open_outbox(p)) return false;
    greet(p, caller, how);
    const std::string refusal = connect(p, caller, ggml, probe);
    if (!refusal.empty()) send(Notice{"nothing of " + path_of(caller) + " is captured: " + refusal});
    return p.known[caller] = refusal.empty();
}

// Of an object that is known from before: whoever listens since hears of it.
bool captured_again(Program& p, link_map* caller, const char* how, bool known) {
    if (!p.greeted && open_outbox(p)) greet(p, caller, how);
    return known && p.greeted;
}

bool captured(Program& p, link_map* caller) {
    const auto known = p.known.find(caller);
    if (known != p.known.end())
        return captured_again(p, caller, is_redirected(caller) ? "calls redirected" : way.load(), known->second);
    const char* how = is_redirected(caller) ? "calls redirected" : way.load();
    // llama.cpp and what reads pictures for it are two libraries with one ggml.
    return captured(p, caller, how, find_function(caller, "ggml_new_tensor_4d"), [&] { return probe_ggml(caller); });
}

template <typename F>
std::shared_ptr<Stream> stream_if(ggml_backend_sched_t sched, Writes writes, const F& is_captured) {
    if (!is_on()) return nullptr;
    try {
        Program& p = program();
        const std::lock_guard lock(p.mutex);
        if (!is_captured(p)) return nullptr;
        std::shared_ptr<Stream>& stream = p.streams[sched];
        if (!stream) stream = std::make_shared<Stream>(p.n_streams++, WayOut{send, later}, writes);
        return stream;
    } catch (const std::exception& e) {
        std::fprintf(stderr, "attnscope: %s; nothing is captured any more\n", e.what());
        state = State::off;
        return nullptr;
    }
}

// The stream that the graph's caches belong to, where its scheduler has gone; it rests no more. Null: there is none, or `stream` has
// caches of its own.
std::shared_ptr<Stream> take_resting(ggml_cgraph* graph, const std::shared_ptr<Stream>& stream) {
    Program& p = program();
    {
        const std::lock_guard lock(p.mutex);
        if (p.resting.empty()) return nullptr;
    }
    if (stream->has_begun()) return nullptr;
    const std::vector<CacheMemory> caches = find_inputs(graph).caches;
    const std::lock_guard lock(p.mutex);
    const auto found = std::find_if(p.resting.begin(), p.resting.end(),
                                    [&](const std::shared_ptr<Stream>& s) { return s->rests_on(caches); });
    if (found == p.resting.end()) return nullptr;
    std::shared_ptr<Stream> rested = std::move(*found);
    p.resting.erase(found);
    return rested;
}

std::shared_ptr<Stream> forget(Program& p, ggml_backend_sched_t sched) {
    const std::lock_guard lock(p.mutex);
    const auto found = p.streams.find(sched);
    if (found == p.streams.end()) return nullptr;
    std::shared_ptr<Stream> stream = std::move(found->second);
    p.streams.erase(found);
    return stream;
}

} // namespace

std::shared_ptr<Stream> stream_of(link_map* caller, ggml_backend_sched_t sched) {
    return stream_if(sched, Writes::told, [&](Program& p) { return captured(p, caller); });
}

std::shared_ptr<Stream> stream_of(link_map* caller, ggml_backend_sched_t sched, ggml_cgraph* graph) {
    std::shared_ptr<Stream> stream = stream_of(caller, sched);
    if (!stream) return stream;
    try {
        std::shared_ptr<Stream> rested = take_resting(graph, stream);
        if (!rested || !rested->wake()) return stream;
        Program& p = program();
        const std::lock_guard lock(p.mutex);
        return p.streams[sched] = rested;
    } catch (const std::exception& e) {
        std::fprintf(stderr, "attnscope: %s; nothing is captured of a context any more\n", e.what());
        return stream;
    }
}

std::shared_ptr<Stream> stream_of_back_end(link_map* holder, ggml_backend_sched_t key,
                                           const std::function<Probed()>& probe) {
    return stream_if(key, Writes::untold, [&](Program& p) {
        const auto known = p.known.find(holder);
        if (known != p.known.end()) return captured_again(p, holder, accelerator, known->second);
        return probe && captured(p, holder, accelerator, holder, probe);
    });
}

void tell_of_back_end(link_map* holder, const std::string& why) {
    if (!is_on()) return;
    Program& p = program();
    const std::lock_guard lock(p.mutex);
    if (!open_outbox(p)) return;
    greet(p, holder, accelerator);
    send(Notice{why});
}

std::shared_ptr<Stream> stream_with_cache(uintptr_t begin, uintptr_t end) {
    if (state != State::on || owner != getpid()) return nullptr;
    Program& p = program();
    const std::lock_guard lock(p.mutex);
    for (const auto& [sched, stream] : p.streams) {
        if (stream && stream->has_cache_at(begin, end)) return stream;
    }
    return nullptr;
}

std::shared_ptr<Stream> known_stream(ggml_backend_sched_t sched) {
    if (state != State::on || owner != getpid()) return nullptr;
    Program& p = program();
    const std::lock_guard lock(p.mutex);
    const auto found = p.streams.find(sched);
    return found == p.streams.end() ? nullptr : found->second;
}

void came_by(const char* how) {
    way = how;
}

void not_reached(const std::string& why) {
    if (!is_on()) return;
    Program& p = program();
    const std::lock_guard lock(p.mutex);
    if (p.greeted || p.told_unreached || !open_outbox(p)) return;
    p.told_unreached = true;
    send(Notice{path_of(nullptr) + ": " + why});
}

void finish_streams() {
    if (state != State::on || owner != getpid()) return;
    std::vector<std::shared_ptr<Stream>> streams;
    {
        Program& p = program();
        const std::lock_guard lock(p.mutex);
        streams = p.resting;
        for (const auto& [sched, stream] : p.streams) {
            if (stream) streams.push_back(stream);
        }
    }
    for (const std::shared_ptr<Stream>& stream : streams) stream->finish();
    wait_for_later();
}

void leave() {
    finish_streams();
    if (owner != getpid()) return;
    state = State::off;
    Program& p = program();
    std::map<ggml_backend_sched_t, std::shared_ptr<Stream>> ended; // what they hold goes when nobody waits for it
    std::vector<std::shared_ptr<Stream>> rested;
    const std::lock_guard lock(p.mutex);
    ended.swap(p.streams);
    rested.swap(p.resting);
    const std::lock_guard out_lock(p.out_mutex);
    p.outbox.reset();
}

void begin_again() {
    Program& p = program();
    const std::lock_guard lock(p.mutex);
    if (state != State::off || (owner != 0 && owner != getpid())) return;
    {
        const std::lock_guard out_lock(p.out_mutex);
        p.outbox.reset();
        p.told = false;
    }
    p.greeted = p.told_unreached = false;
    std::erase_if(p.known, [](const auto& object) { return !object.second; }); // why not is said again
    state = State::unknown;
}

void end_stream(ggml_backend_sched_t sched) {
    if (state != State::on || owner != getpid()) return;
    if (const std::shared_ptr<Stream> stream = forget(program(), sched)) stream->end({});
}

void rest_stream(ggml_backend_sched_t sched) {
    if (state != State::on || owner != getpid()) return;
    Program& p = program();
    std::shared_ptr<Stream> stream = forget(p, sched);
    if (!stream || !stream->rest()) return;
    const std::lock_guard lock(p.mutex);
    p.resting.push_back(std::move(stream));
}

void memory_goes(const void* buffer) {
    if (state != State::on || owner != getpid()) return;
    std::vector<std::shared_ptr<Stream>> ended;
    {
        Program& p = program();
        const std::lock_guard lock(p.mutex);
        for (const auto& [sched, stream] : p.streams) {
            if (stream) stream->loses(buffer);
        }
        std::erase_if(p.resting, [&](const std::shared_ptr<Stream>& s) {
            if (!s->loses(buffer)) return false;
            ended.push_back(s);
            return true;
        });
    }
    for (const std::shared_ptr<Stream>& stream : ended) stream->end({});
}

} // namespace attnscope::attach
