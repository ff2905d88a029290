#include "server/front/ollama_front.h"

#include "server/front/ollama_exchange.h"
#include "server/http/reply.h"

#include <optional>
#include <utility>

namespace attnscope::server {

namespace {

constexpr Dialect ollama = Dialect::ollama;
constexpr size_t most_answer = size_t(512) << 20;
// What the program does not know.
constexpr const char* ours[] = {"attention", "output_attentions", "attention_format", "record", "request_id"};

bool is_openai(OllamaRoute route) {
    return route == OllamaRoute::openai_chat || route == OllamaRoute::openai_completion;
}

bool streams(const OllamaAsked& asked) {
    if (!asked.body.contains("stream")) return !is_openai(asked.route);
    return asked.body["stream"] == true;
}

// The request as the program gets it.
OrderedJson body_for_program(OllamaAsked& asked, OllamaSent& sent) {
    OrderedJson body = std::move(asked.body);
    for (const char* name : ours) body.erase(name);
    if (!is_openai(asked.route) || body.value("stream", OrderedJson()) != true) return body;
    OrderedJson& options = body["stream_options"]; // they make it say how many tokens there were
    if (!options.is_object()) options = OrderedJson::object();
    sent.usage_asked = options.value("include_usage", OrderedJson()) == true;
    options["include_usage"] = true;
    return body;
}

// What is known of the line before it is there.
struct Expected {
    std::string file; // of the model
    std::vector<int32_t> prompt;
    LiveSequences::Model model;
};
Result<Expected> expect(FrontService& service, const OllamaProgram& program, const OllamaAsked& asked) {
    if (!asked.wants.character_spans.empty())
        return Error{ErrorKind::invalid_argument, "\"attention.spans\": give columns here"};
    if (!service.options.server.attention && asked.wants.attention)
        return Error{ErrorKind::invalid_argument, no_attention_here};
    Expected out;
    Result<std::string> file = program.model_file(asked.body);
    if (!file) return file.error();
    out.file = std::move(*file);
    OrderedJson body = asked.body;
    for (const char* name : ours) body.erase(name);
    Result<std::string> text = program.prompt(asked.route, body);
    if (!text) return text.error();
    // What was loaded for that has told of itself by now: it computes something first.
    std::optional<LiveSequences::Model> model;
    if (service.live.wait_for_all(service.options.patience)) model = service.live.model(out.file);
    if (!model) return Error{ErrorKind::engine, "nothing that this model computes was seen: it has no attention here"};
    if (asked.wants.attention) {
        if (Result<void> fits = check_request(*asked.wants.attention, model->geometry); !fits) return fits.error();
    }
    out.model = std::move(*model);
    out.prompt = out.model.tokens(*text);
    return out;
}

// Goes when the answer is whole here, however slowly it is read. Its line is looked for behind that, and what the next request has
// decoded is not to be taken for it.
class Turn {
public:
    Turn(FrontService& service, std::unique_ptr<SlotPool::Held> held, std::shared_ptr<RequestRows> rows)
        : service_(service), held_(std::move(held)), rows_(std::move(rows)) {}
    ~Turn() {
        service_.live.wait_for_all(service_.options.patience);
        rows_->close();
    }
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;

private:
    FrontService& service_;
    const std::unique_ptr<SlotPool::Held> held_; // goes last
    const std::shared_ptr<RequestRows> rows_;
};

// A stream in Ollama's words: an object on every line.
class Lines {
public:
    std::string add(const std::string& bytes, OllamaExchange& exchange) {
        left_ += bytes;
        std::string out;
        for (size_t end = 0; (end = left_.find('\n')) != std::string::npos; left_.erase(0, end + 1))
            out += exchange.object(left_.substr(0, end)) + "\n";
        return out;
    }
    std::string rest() { return std::exchange(left_, {}); }

private:
    std::string left_;
};

void stream(FrontService& service, const httplib::Request& request, httplib::Response& response,
            std::shared_ptr<Upstream> upstream, std::shared_ptr<OllamaExchange> exchange, bool events) {
    const auto reader = std::make_shared<EventReader>();
    const auto lines = std::make_shared<Lines>();
    const auto send = [=, gone = gone_away(request, service)](size_t, httplib::DataSink& sink) {
        Result<std::string> some = upstream->read(gone);
        if (!some) return false;
        std::string out;
        if (!events) {
            out = lines->add(*some, *exchange);
            if (some->empty()) out += lines->rest();
        } else {
            if (!reader->add(*some)) return false;
            while (const std::optional<ServerEvent> event = reader->next()) out += exchange->event(*event);
            if (some->empty()) out += exchange->rest() + reader->rest();
        }
        if (!out.empty() && !sink.write(out.data(), out.size())) return false;
        if (some->empty()) sink.done();
        return true;
    };
    const std::string type = response.get_header_value("Content-Type");
    response.headers.erase("Content-Type");
    reply_in_pieces(request, response, type, send);
}

} // namespace

OllamaProgram ollama_of(const FrontService& service, const httplib::Request& request) {
    return {service.options.to, headers_for_questions(request), gone_away(request, service)};
}

void answer_from_ollama(FrontService& service, const httplib::Request& request, httplib::Response& response,
                        OllamaAsked asked) {
    const Dialect dialect = is_openai(asked.route) ? Dialect::openai : ollama;
    const GoneAway gone = gone_away(request, service);
    Result<Expected> expected = expect(service, ollama_of(service, request), asked);
    if (!expected) return refuse(response, dialect, expected.error());
    // One at a time: which of its slots answers is the program's choice.
    Result<std::unique_ptr<SlotPool::Held>> slot = service.slots.hold(1, expected->prompt, {}, service.live, gone);
    if (!slot) return refuse(response, dialect, slot.error());
    RowsOptions options;
    options.model_file = expected->file;
    options.record = asked.record;
    options.streams = false; // they are sent at the end
    options.patience = service.options.patience;
    options.n_threads = service.options.server.attention_threads;
    options.frame_bytes = service.options.server.stream_memory * most_waiting_whole;
    const auto rows =
        std::make_shared<RequestRows>(service.live, std::move(asked.wants), std::move(expected->prompt), options);
    if (Result<void> r = rows->begin(); !r) return refuse(response, dialect, 500, r.error().message);
    OllamaSent sent;
    sent.route = asked.route;
    sent.id = asked.id;
    sent.said = expected->model.said;
    const bool streamed = streams(asked);
    httplib::Request to_program = request_to_program(request);
    to_program.body = body_for_program(asked, sent).dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
    const auto upstream = std::make_shared<Upstream>(service.options.to, std::move(to_program));
    upstream->hold(std::make_shared<Turn>(service, std::move(*slot), rows));
    Result<Upstream::Head> head = upstream->head(gone);
    if (!head) return refuse_unreached(response, request, head.error());
    if (head->status != 200) return pass_answer_on(service, request, response, upstream, *head);
    pass_head_on(response, *head);
    const auto exchange = std::make_shared<OllamaExchange>(std::move(sent), rows, service.answers);
    if (streamed) return stream(service, request, response, upstream, exchange, is_openai(asked.route));
    Result<std::string> whole = upstream->read_all(most_answer, gone);
    if (!whole) return refuse_unreached(response, request, whole.error());
    const std::string type = response.get_header_value("Content-Type");
    response.headers.erase("Content-Type");
    response.set_content(exchange->object(*whole), type);
}

namespace {

// Routes that others speak, too: only Ollama's answers get attention there.
void generate(FrontService& service, const httplib::Request& request, httplib::Response& response, OllamaRoute route) {
    if (is_compressed(request)) return refuse_compressed(request, response);
    if (!may_be_ours(request.body)) return pass_on(service, request, response);
    Result<Json> read = parse_body(request.body);
    if (!read && spells_attention(request.body)) return refuse(response, ollama, read.error());
    if (!read) return pass_on(service, request, response); // the program says what is wrong
    RequestFields fields(*read);
    if (Result<void> r = check_hidden_states(fields.find("output_hidden_states")); !r)
        return refuse(response, ollama, r.error());
    OllamaAsked asked;
    asked.route = route;
    Result<AttentionWants> wants = read_attention_wants(fields);
    if (!wants) return refuse(response, ollama, wants.error());
    asked.record = fields.flag("record", false);
    if (Result<void> r = fields.status(); !r) return refuse(response, ollama, r.error()); // a wrong value asks, too
    asked.id = fields.text("request_id", "", 256);
    if (!wants->attention && !asked.record) return pass_on(service, request, response);
    if (asked.record && service.options.server.record_dir.empty())
        fields.fail("\"record\" needs a server that writes recordings (attach -o DIR)");
    if (Result<void> r = fields.status(); !r) return refuse(response, ollama, r.error());
    if (!ollama_of(service, request).is_there()) {
        return refuse(response, ollama, 400,
                      "attention is answered at /completion, /v1/completions and /v1/chat/completions; here of Ollama "
                      "alone");
    }
    asked.wants = std::move(*wants);
    asked.body = OrderedJson::parse(request.body);
    answer_from_ollama(service, request, response, std::move(asked));
}

} // namespace

void add_ollama_front(httplib::Server& http, FrontService& service) {
    http.Post("/api/chat", [&service](const httplib::Request& q, httplib::Response& a) {
        generate(service, q, a, OllamaRoute::chat);
    });
    http.Post("/api/generate", [&service](const httplib::Request& q, httplib::Response& a) {
        generate(service, q, a, OllamaRoute::generate);
    });
}

} // namespace attnscope::server
