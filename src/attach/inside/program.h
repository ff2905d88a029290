// The program that we are in: whether somebody wants its attention, its ggml, its contexts.
#pragma once

#include "attach/inside/probe.h"
#include "attach/inside/stream.h"

#include <ggml-backend.h>

#include <functional>
#include <memory>
#include <string>

struct link_map;

namespace attnscope::attach {

// The stream of a scheduler that `caller` uses; null: nothing is captured, and the program goes its way.
std::shared_ptr<Stream> stream_of(link_map* caller, ggml_backend_sched_t sched);
// The same where it is about to give memory to `graph`: where nothing is known of it yet, a stream may go on whose scheduler has gone.
std::shared_ptr<Stream> stream_of(link_map* caller, ggml_backend_sched_t sched, ggml_cgraph* graph);
// The same of a context whose scheduler has asked a back end of ours; `key` stands for it. Its ggml is known by what `probe` finds, which is
// called once a process; null: not this time.
std::shared_ptr<Stream> stream_of_back_end(link_map* holder, ggml_backend_sched_t key,
                                           const std::function<Probed()>& probe);
// The stream of a scheduler that has one.
std::shared_ptr<Stream> known_stream(ggml_backend_sched_t sched);
// Why nothing comes of such a context.
void tell_of_back_end(link_map* holder, const std::string& why);
// The stream whose caches lie there; null: nobody's do.
std::shared_ptr<Stream> stream_with_cache(uintptr_t begin, uintptr_t end);
// How we come between, where it is not by interposition. For the parent; text that stays.
void came_by(const char* way);
// A model was opened by a ggml that we cannot come before. Said once.
void not_reached(const std::string& why);
// Nothing is captured any more. What was handed over is whole.
void leave();
// After that: somebody else listens. What was decoded before is not known, nor is what goes on from it. While somebody listens already
// nothing changes, and in a child of a process that was attached nothing begins.
void begin_again();
// The program ends by itself: the last frames, and nothing any more.
void finish_streams();
// What the stream belongs to is about to go.
void end_stream(ggml_backend_sched_t sched);
// The scheduler is about to go; its context may make another one.
void rest_stream(ggml_backend_sched_t sched);
// A buffer of ggml's is about to be freed.
void memory_goes(const void* buffer);

} // namespace attnscope::attach
