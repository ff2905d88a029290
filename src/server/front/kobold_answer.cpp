#include "server/front/kobold_answer.h"

#include "server/front/llama_start.h"

#include <algorithm>
#include <utility>

namespace attnscope::server {

namespace {
constexpr size_t most_refusal = size_t(1) << 20;
} // namespace

KoboldAnswer::KoboldAnswer(FrontService& service, KoboldRequest request, const GoneAway& gone)
    : service_(service), request_(std::move(request)), gone_(gone), one_(service.answers.begin(request_.fields.id)) {}

Result<std::unique_ptr<KoboldAnswer>> KoboldAnswer::start(FrontService& service, const LlamaProgram& program,
                                                          const httplib::Request& asked, KoboldRequest request,
                                                          const GoneAway& gone) {
    std::unique_ptr<KoboldAnswer> out(new KoboldAnswer(service, std::move(request), gone));
    httplib::Request to_program = request_to_program(asked);
    to_program.method = "POST";
    to_program.path = "/completion";
    for (const char* name : {"Sec-WebSocket-Key", "Sec-WebSocket-Version", "Sec-WebSocket-Extensions",
                             "Sec-WebSocket-Protocol", "Content-Type"})
        to_program.headers.erase(name);
    to_program.set_header("Content-Type", "application/json");
    if (Result<void> r = out->send(program, std::move(to_program)); !r) return r.error();
    return out;
}

Result<void> KoboldAnswer::send(const LlamaProgram& program, httplib::Request to_program) {
    const GoneAway gone = [this] { return one_->cancelled() || gone_(); };
    std::unique_ptr<RequestRows> rows;
    Upstream::Head head;
    if (request_.wants.attention || request_.record) {
        LlamaAsked asked{request_.prompt, request_.wants, true, request_.record};
        Result<LlamaStarted> started =
            start_llama(service_, program, std::move(to_program), request_.body, std::move(asked), gone);
        if (!started && one_->cancelled()) return {}; // next() says so
        if (!started) return started.error();
        rows = std::move(started->rows);
        upstream_ = std::move(started->upstream);
        head = std::move(started->head);
    } else {
        to_program.body = request_.body.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
        upstream_ = std::make_shared<Upstream>(service_.options.to, std::move(to_program));
        Result<Upstream::Head> told = upstream_->head(gone);
        if (!told && one_->cancelled()) return {};
        if (!told) return told.error();
        head = std::move(*told);
    }
    stream_ = std::make_unique<LlamaStream>(std::move(rows));
    if (head.status == 200) return {};
    Result<std::string> why = upstream_->read_all(most_refusal, gone);
    return program_refused(head.status, why ? *why : why.error().message);
}

void KoboldAnswer::end(StreamEnd& end) {
    if (!request_.fields.trim_stop && end.finish_reason == "stop") end.text += end.stopping_word;
    one_->add(end.text);
    Answers::End told;
    told.prompt_seconds = end.prompt_seconds;
    told.generate_seconds = end.generate_seconds;
    told.n_prompt = end.n_prompt;
    told.n_read = std::max<int64_t>(end.n_prompt - end.n_reused, 0);
    told.n_generated = end.n_generated;
    told.seed = end.seed;
    told.stop_reason = end.finish_reason == "length" ? 0 : end.end_of_text ? 1 : 2;
    service_.answers.ended(told);
    const RequestRows* const rows = stream_ ? stream_->rows() : nullptr;
    const PositionScores* const scores = rows ? rows->accumulated() : nullptr;
    if (scores) service_.answers.keep_scores(request_.fields.id, rows->prompt(), *scores);
}

std::optional<StreamPart> KoboldAnswer::taken(StreamPart part) {
    if (const auto* token = std::get_if<StreamToken>(&part)) {
        if (!token->prompt) one_->add(token->text);
        return part;
    }
    over_ = true;
    if (auto* last = std::get_if<StreamEnd>(&part)) end(*last);
    one_->end();
    upstream_.reset();
    return part;
}

std::optional<StreamPart> KoboldAnswer::next() {
    while (!over_) {
        if (one_->cancelled()) {
            upstream_.reset(); // the program ends it, too
            return taken(stream_ ? stream_->aborted() : LlamaStream(nullptr).aborted());
        }
        if (std::optional<StreamPart> part = stream_->next()) return taken(std::move(*part));
        Result<std::string> some = upstream_->read([this] { return one_->cancelled() || gone_(); });
        if (!some && one_->cancelled()) continue;
        if (!some && gone_()) break;
        if (!some) return taken(StreamFailure{some.error().message});
        if (some->empty()) return taken(StreamFailure{"the program's answer broke off"});
        if (!stream_->add(*some)) return taken(StreamFailure{"the program's answer is no stream of events"});
    }
    return std::nullopt;
}

} // namespace attnscope::server
