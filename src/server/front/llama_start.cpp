#include "server/front/llama_start.h"

#include <fmt/format.h>

#include <utility>

namespace attnscope::server {

namespace {

// llama-server of today takes four slots with one cache where no option says anything of it, so what was decoded has to tell.
void warn_of_one_cache(FrontService& service, size_t n_slots) {
    const std::optional<bool> told_apart = service.live.tells_slots_apart();
    if (n_slots < 2 || told_apart.value_or(true) || service.warned_of_one_cache.exchange(true)) return;
    if (service.options.server.log) service.options.server.log(fmt::format("warning: {}", one_cache));
}

} // namespace

Result<LlamaStarted> start_llama(FrontService& service, const LlamaProgram& program, httplib::Request to_program,
                                 OrderedJson body, LlamaAsked asked, const GoneAway& gone) {
    Result<std::vector<bool>> busy = program.slots();
    if (!busy) return busy.error();
    warn_of_one_cache(service, busy->size());
    LlamaStarted out;
    Result<std::unique_ptr<SlotPool::Held>> slot =
        service.slots.hold(static_cast<int32_t>(busy->size()), asked.prompt, *busy, service.live, gone);
    if (!slot) return slot.error();
    const std::shared_ptr<SlotPool::Held> held = std::move(*slot);
    RowsOptions options;
    options.slot = held->slot();
    options.record = asked.record;
    options.streams = asked.streams;
    options.patience = service.options.patience;
    options.n_threads = service.options.server.attention_threads;
    options.frame_bytes = service.options.server.stream_memory * (asked.streams ? 1 : most_waiting_whole);
    out.rows = std::make_unique<RequestRows>(service.live, std::move(asked.wants), std::move(asked.prompt), options);
    if (Result<void> r = out.rows->begin(); !r) return Error{ErrorKind::engine, r.error().message};
    body["id_slot"] = held->slot();
    to_program.body = body.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
    out.upstream = std::make_shared<Upstream>(service.options.to, std::move(to_program));
    if (asked.streams)
        out.upstream->hold(held); // a slow reader holds up nobody
    else
        out.slot = held;
    Result<Upstream::Head> head = out.upstream->head(gone);
    if (!head) return head.error();
    out.head = std::move(*head);
    warn_of_one_cache(service, busy->size()); // nothing was decoded before
    return out;
}

} // namespace attnscope::server
