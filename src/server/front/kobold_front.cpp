#include "server/front/kobold_front.h"

#include "base/bounded_json.h"
#include "server/dialects/halo_weave.h"
#include "server/dialects/tokenizer.h"
#include "server/front/event_reader.h"
#include "server/front/llama_program.h"
#include "server/front/request_rows.h"
#include "server/http/reply.h"

#include <algorithm>
#include <utility>

namespace attnscope::server {

namespace {

constexpr Dialect kobold = Dialect::kobold;
constexpr size_t most_tokens = size_t(1) << 22;
constexpr size_t most_text = size_t(64) << 20;
// What the program does not know, or what we have said in its words.
constexpr const char* ours[] = {"input_ids",        "output_attentions", "attention",
                                "attention_format", "request_id",        "record"};

// The program's pieces of text, as tokens with rows. A token is known when the next one's frame is there; the last one by its text.
class KoboldStream {
public:
    KoboldStream(FrontService& service, KoboldProgram program, std::unique_ptr<RequestRows> rows, std::string id)
        : service_(service), program_(std::move(program)), rows_(std::move(rows)), id_(std::move(id)) {}
    EventReader events;

    std::string event(const ServerEvent& event) {
        const Json body = base::json_depth_is_bounded(event.data) ? Json::parse(event.data, nullptr, false) : Json();
        if (!body.is_object() || !body.contains("token") || !body["token"].is_string()) return {};
        text_ += body["token"].get_ref<const std::string&>();
        if (text_.size() > most_text) text_.resize(most_text);
        if (body.contains("finish_reason") && body["finish_reason"].is_string())
            reason_ = body["finish_reason"].get<std::string>();
        return text_.empty() ? std::string() : tokens();
    }
    // No event comes any more.
    std::string end() {
        std::string out;
        if (!text_.empty() && service_.live.wait_for_all(service_.options.patience)) out += tokens();
        const std::string rest = text_.substr(std::min(told_.size(), text_.size()));
        if (pending_ && !rest.empty()) {
            const Result<std::vector<int32_t>> ids = program_.tokens(rest, false);
            const bool one = ids && ids->size() == 1;
            out += token(one ? ids->front() : -1, rest);
        }
        Json done = {{"type", "done"},
                     {"finish_reason", reason_ == "length" ? "length" : "stop"},
                     {"total_tokens", n_told_},
                     {"reused", rows_->n_reused()},
                     {"request_id", id_}};
        std::string text = json_text(done);
        text = with_members(text, rows_->end_members());
        if (const PositionScores* scores = rows_->accumulated())
            service_.answers.keep_scores(id_, rows_->prompt(), *scores);
        return out + "event: message\ndata: " + text + "\n\n";
    }

private:
    std::string tokens() {
        std::string out;
        while (!rows_->failed() && (rows_->n_told() == 0 || rows_->n_waiting() > 0)) {
            std::string row = rows_->next({});
            for (const RequestRows::PromptRow& p : rows_->take_prompt_rows())
                out += halo_weave_event({{"type", "prompt"}, {"token", {{"token_id", p.token}}}, {"request_id", id_}},
                                        p.row.json());
            if (pending_ && rows_->query_token()) {
                const int32_t id = *rows_->query_token();
                const std::string piece = service_.live.piece(id);
                told_ += piece;
                out += token(id, piece);
            }
            if (rows_->failed()) out += halo_weave_event({{"type", "error"}, {"error", row}, {"request_id", id_}}, "");
            pending_ = std::move(row);
        }
        return out;
    }
    std::string token(int32_t id, const std::string& text) {
        ++n_told_;
        const std::string row = std::exchange(pending_, std::nullopt).value_or("null");
        return halo_weave_event({{"type", "token"}, {"token", halo_weave_token(id, text)}, {"request_id", id_}}, row);
    }

    FrontService& service_;
    const KoboldProgram program_;
    const std::unique_ptr<RequestRows> rows_;
    const std::string id_;
    std::string text_, told_; // what the program said, and what of it was told as tokens
    std::string reason_;
    std::optional<std::string> pending_; // the row of a token that is not known yet
    int64_t n_told_ = 0;
};

void failed(const httplib::Request& request, httplib::Response& response, const Error& error) {
    if (error.kind == ErrorKind::not_found || error.kind == ErrorKind::io)
        return refuse_unreached(response, request, error);
    refuse(response, kobold, error);
}

} // namespace

KoboldProgram kobold_of(const FrontService& service, const httplib::Request& request) {
    return {service.options.to, headers_for_questions(request), gone_away(request, service)};
}

namespace {

// What is asked of attention, and where it can be had here.
Result<AttentionWants> read_wants(const FrontService& service, RequestFields& f) {
    Result<AttentionWants> wants = read_attention_wants(f);
    if (!wants) return wants;
    if (Result<void> r = check_hidden_states(f.find("output_hidden_states")); !r) return r.error();
    if (!wants->character_spans.empty()) f.fail("\"attention.spans\": give columns here");
    const bool record = f.flag("record", false);
    if (record && service.options.server.record_dir.empty())
        f.fail("\"record\" needs a server that writes recordings (attach -o DIR)");
    if (Result<void> r = f.status(); !r) return r.error();
    if (Result<void> r = can_tell(*wants, service); !r) return r.error();
    return wants;
}

} // namespace

void stream_from_kobold(FrontService& service, const httplib::Request& request, httplib::Response& response) {
    Result<Json> body = parse_body(request.body);
    if (!body) return refuse(response, kobold, body.error());
    RequestFields f(*body);
    Result<AttentionWants> wants = read_wants(service, f);
    if (!wants) return refuse(response, kobold, wants.error());
    const bool record = f.flag("record", false);
    const auto ids = f.token_ids("input_ids", INT32_MAX, most_tokens);
    std::string text = f.text("prompt", "", max_text);
    const std::string id = f.text("request_id", f.text("genkey", "", 256), 256);
    if (!f.text("memory", "", max_text).empty())
        f.fail("\"memory\" has no attention before KoboldCPP: put it into \"prompt\"");
    if (Result<void> r = f.status(); !r) return refuse(response, kobold, r.error());
    const KoboldProgram program = kobold_of(service, request);
    if (ids) {
        Result<std::string> told = program.text(*ids);
        if (!told) return failed(request, response, told.error());
        text = *told;
    }
    Result<std::vector<int32_t>> prompt = program.tokens(text, true);
    if (!prompt) return failed(request, response, prompt.error());
    if (ids && *ids != *prompt) {
        return refuse(response, kobold, 400,
                      "the program takes a text and cuts it into other tokens than \"input_ids\": their rows would be "
                      "of other columns");
    }
    const GoneAway gone = gone_away(request, service);
    Result<std::unique_ptr<SlotPool::Held>> slot = service.slots.hold(1, *prompt, {}, service.live, gone);
    if (!slot) return failed(request, response, slot.error());
    RowsOptions options;
    options.record = record;
    options.patience = service.options.patience;
    options.n_threads = service.options.server.attention_threads;
    options.frame_bytes = service.options.server.stream_memory;
    auto rows = std::make_unique<RequestRows>(service.live, std::move(*wants), std::move(*prompt), options);
    if (Result<void> r = rows->begin(); !r) return refuse(response, kobold, 500, r.error().message);

    OrderedJson to_program = OrderedJson::parse(request.body);
    for (const char* name : ours) to_program.erase(name);
    to_program["prompt"] = text;
    httplib::Request sent = request_to_program(request);
    sent.body = to_program.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
    auto upstream = std::make_shared<Upstream>(service.options.to, std::move(sent));
    upstream->hold(std::shared_ptr<SlotPool::Held>(std::move(*slot)));
    Result<Upstream::Head> head = upstream->head(gone);
    if (!head) return refuse_unreached(response, request, head.error());
    if (head->status != 200) return pass_answer_on(service, request, response, upstream, *head);
    const auto told = std::make_shared<KoboldStream>(service, program, std::move(rows), id);
    const auto send = [upstream, told, gone](size_t, httplib::DataSink& sink) {
        Result<std::string> some = upstream->read(gone);
        if (!some || !told->events.add(*some)) return false;
        std::string out;
        while (const std::optional<ServerEvent> event = told->events.next()) out += told->event(*event);
        if (some->empty()) out += told->end();
        if (!out.empty() && !sink.write(out.data(), out.size())) return false;
        if (some->empty()) sink.done();
        return true;
    };
    response.set_header("Cache-Control", "no-cache");
    response.set_header("X-Accel-Buffering", "no");
    reply_in_pieces(request, response, "text/event-stream", send);
}

void model_of_kobold(FrontService& service, const httplib::Request& request, httplib::Response& response) {
    const KoboldProgram program = kobold_of(service, request);
    const Result<Json> model = program.get("/api/v1/model"),
                       context = program.get("/api/extra/true_max_context_length");
    const bool named = model && model->contains("result") && (*model)["result"].is_string();
    const bool bounded = context && context->contains("value") && (*context)["value"].is_number();
    const std::string name = named ? (*model)["result"].get<std::string>() : "koboldcpp/model";
    const std::optional<Geometry> geometry = service.live.geometry(); // once something was decoded
    int32_t n_head = 0, n_head_kv = 0;
    for (const LayerInfo& layer : geometry ? geometry->layers : std::vector<LayerInfo>()) {
        n_head = std::max(n_head, layer.n_head);
        n_head_kv = std::max(n_head_kv, layer.n_head_kv);
    }
    reply(response, {{"result", name},
                     {"model_name", name.substr(name.find('/') + 1)},
                     {"vocab_size", 0},
                     {"num_layers", geometry ? geometry->n_layer() : 0},
                     {"num_attention_heads", n_head},
                     {"num_key_value_heads", n_head_kv},
                     {"embedding_size", 0},
                     {"max_context_length", bounded ? (*context)["value"] : Json(0)},
                     {"max_trained_context", 0},
                     {"bos_token_id", -1},
                     {"eos_token_id", -1},
                     {"eot_token_id", -1},
                     {"rope_freq_base", 0},
                     {"rope_freq_scale", 0}});
}

void tokenize_by_kobold(FrontService& service, const httplib::Request& request, httplib::Response& response,
                        const std::string& text, bool add_special, bool pieces) {
    const KoboldProgram program = kobold_of(service, request);
    Result<std::vector<int32_t>> ids = program.tokens(text, add_special);
    if (!ids) return failed(request, response, ids.error());
    Json out = {{"token_ids", *ids}, {"token_count", ids->size()}};
    if (pieces) {
        Json& tokens = out["tokens"] = Json::array();
        for (const int32_t id : *ids) {
            std::string piece = service.live.piece(id);
            if (piece.empty()) { // nothing was decoded yet
                if (Result<std::string> told = program.text({id}); told) piece = *told;
            }
            tokens.push_back(halo_weave_token(id, piece));
            if (Json bytes = piece_json(piece); bytes.is_array()) tokens.back()["bytes"] = std::move(bytes);
        }
    }
    reply(response, out);
}

} // namespace attnscope::server
