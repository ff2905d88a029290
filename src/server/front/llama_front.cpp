// Requests in llama-server's and OpenAI's words that ask for attention, in front of llama-server: each is pinned to a slot of its
// own, and what comes back gets what that slot was seen to decode.
#include "server/front/front_service.h"
#include "server/front/llama_exchange.h"
#include "server/front/llama_start.h"
#include "server/front/ollama_front.h"
#include "server/front/prompt_bound.h"
#include "server/http/reply.h"

#include "server/dialects/attention_json.h"

#include <array>
#include <utility>

namespace attnscope::server {

namespace {

constexpr size_t most_answer = size_t(512) << 20;
constexpr Dialect openai = Dialect::openai;

Error invalid(const std::string& why) {
    return {ErrorKind::invalid_argument, why};
}

// What several lines of text would be made of, or text that has no tokens.
Result<void> check_combination(const Json& body) {
    for (const char* name : {"n", "n_cmpl", "best_of"}) {
        if (body.contains(name) && body[name].is_number() && body[name] != 1)
            return invalid(std::string("\"") + name + "\" above 1 has no attention; ask for one answer at a time");
    }
    if (body.contains("response_fields") && !body["response_fields"].is_null())
        return invalid("\"response_fields\" leaves out what attention is found by; ask without it");
    return {};
}

// One prompt, as text or tokens.
Result<void> check_prompt(const OrderedJson& prompt) {
    if (prompt.is_string()) return {};
    if (prompt.is_object()) return invalid("a prompt with pictures or sounds has no attention");
    if (!prompt.is_array() || prompt.empty()) return invalid("\"prompt\" must be a text or tokens");
    bool any_token = false;
    for (const OrderedJson& part : prompt) {
        if (!part.is_string() && !part.is_number_integer())
            return invalid("several prompts in one request have no attention");
        any_token = any_token || part.is_number_integer();
    }
    if (!any_token && prompt.size() > 1) return invalid("several prompts in one request have no attention");
    return {};
}

Result<void> check_messages_of_text(const Json& body) {
    if (!body.contains("messages") || !body["messages"].is_array()) return {}; // the program says what is wrong
    for (const Json& message : body["messages"]) {
        if (!message.is_object() || !message.contains("content") || !message["content"].is_array()) continue;
        for (const Json& part : message["content"]) {
            if (part.is_object() && part.value("type", Json()) != Json("text"))
                return invalid("a chat with pictures or sounds has no attention: what they become is not captured");
        }
    }
    return {};
}

struct Asked {
    LlamaRoute route = LlamaRoute::completion;
    bool chat = false;
};

// Tokens of the prompt, and spans of its characters as columns.
Result<std::vector<int32_t>> prompt_of(const LlamaProgram& program, const OrderedJson& body, bool chat,
                                       AttentionWants& wants) {
    OrderedJson prompt;
    if (chat) {
        Result<std::string> text = program.chat_prompt(body);
        if (!text) return text.error();
        prompt = *text;
    } else {
        prompt = body.contains("prompt") ? body["prompt"] : OrderedJson();
        if (Result<void> r = check_prompt(prompt); !r) return r.error();
        if (prompt.is_array() && prompt[0].is_string() && prompt.size() == 1) prompt = OrderedJson(prompt[0]);
    }
    if (Result<void> r = check_length(program, prompt); !r) return r.error();
    Result<std::vector<int32_t>> tokens = program.tokens(prompt);
    if (!tokens || wants.character_spans.empty()) return tokens;
    if (!prompt.is_string())
        return invalid(
            "\"attention.spans\": characters are counted in a prompt given as text; with tokens give columns");
    std::vector<std::string> pieces;
    if (Result<std::vector<int32_t>> again = program.tokens_of(prompt.get<std::string>(), true, &pieces); !again)
        return again.error();
    AttentionFields fields{std::move(*wants.attention), std::move(wants.character_spans)};
    Result<void> resolved = resolve_character_spans(fields, pieces, prompt.get<std::string>());
    wants.attention = std::move(fields.request);
    wants.character_spans.clear();
    if (!resolved) return resolved.error();
    return tokens;
}

// A program that has no such routes tells nothing that helps.
Error no_llama(const LlamaProgram& program, const Error& error) {
    if (error.kind != ErrorKind::invalid_argument) return error;
    const Result<LlamaProps> props = program.props();
    const bool other = !props && props.error().kind != ErrorKind::not_found && props.error().kind != ErrorKind::io;
    return other ? Error{ErrorKind::unsupported,
                         "attention is answered at this route before llama-server and Ollama, and the program behind "
                         "this server is neither; with -o its answers are recorded"}
                 : error;
}

OrderedJson body_for_program(OrderedJson body, LlamaRoute route) {
    for (const char* name : {"attention", "output_attentions", "attention_format", "record"}) body.erase(name);
    body[route == LlamaRoute::completion ? "return_tokens" : "timings_per_token"] = true;
    return body;
}

bool is_true(const Json& body, const char* name) {
    return body.contains(name) && body[name] == true;
}

void stream(const httplib::Request& request, httplib::Response& response, std::shared_ptr<Upstream> upstream,
            std::shared_ptr<LlamaExchange> exchange, const GoneAway& gone) {
    const auto send = [upstream, exchange, gone](size_t, httplib::DataSink& sink) {
        Result<std::string> some = upstream->read(gone);
        if (!some) return false;
        if (!exchange->events.add(*some)) return false;
        while (const std::optional<ServerEvent> event = exchange->events.next()) {
            const std::string text = exchange->event(*event);
            if (!sink.write(text.data(), text.size())) return false;
        }
        if (!some->empty()) return true;
        if (const std::string rest = exchange->events.rest(); !rest.empty() && !sink.write(rest.data(), rest.size()))
            return false;
        sink.done();
        return true;
    };
    const std::string type = response.get_header_value("Content-Type");
    response.headers.erase("Content-Type");
    reply_in_pieces(request, response, type, send);
}

void generate(FrontService& service, const httplib::Request& request, httplib::Response& response, const Asked& asked) {
    if (is_compressed(request)) return refuse_compressed(request, response);
    if (!may_be_ours(request.body)) return pass_on(service, request, response);
    const GoneAway gone = gone_away(request, service);
    const LlamaProgram program(service.options.to, headers_for_questions(request), gone);
    if (spells_attention(request.body)) { // what asks for none is the program's to judge
        if (Result<void> r = check_n_ids(program, request.body, "prompt"); !r)
            return refuse(response, openai, r.error());
    }
    Result<Json> read = parse_body(request.body);
    if (!read && spells_attention(request.body)) return refuse(response, openai, read.error());
    if (!read) return pass_on(service, request, response); // the program says what is wrong
    RequestFields fields(*read);
    if (Result<void> r = check_hidden_states(fields.find("output_hidden_states")); !r)
        return refuse(response, openai, r.error());
    Result<AttentionWants> wants = read_attention_wants(fields);
    if (!wants) return refuse(response, openai, wants.error());
    const bool record = fields.flag("record", false);
    if (Result<void> r = fields.status(); !r)
        return refuse(response, openai, r.error()); // a wrong value asks for something, too
    const std::string id = fields.text("request_id", "", 256);
    if (record && service.options.server.record_dir.empty())
        fields.fail("\"record\" needs a server that writes recordings (serve --record DIR, attach -o DIR)");
    if (!wants->attention && !record) return pass_on(service, request, response);
    if (Result<void> r = fields.status(); !r) return refuse(response, openai, r.error());
    if (Result<void> r = check_combination(*read); !r) return refuse(response, openai, r.error());
    if (Result<void> r = check_messages_of_text(*read); !r) return refuse(response, openai, r.error());
    const auto failed = [&](const Error& error) {
        if (error.kind == ErrorKind::not_found || error.kind == ErrorKind::io)
            return refuse_unreached(response, request, error);
        refuse(response, openai, error);
    };
    OrderedJson body = OrderedJson::parse(request.body);
    Result<std::vector<int32_t>> prompt = prompt_of(program, body, asked.chat, *wants);
    if (!prompt && ollama_of(service, request).is_there()) {
        if (asked.route != LlamaRoute::openai) return refuse(response, openai, 400, where_ollama_answers);
        const OllamaRoute route = asked.chat ? OllamaRoute::openai_chat : OllamaRoute::openai_completion;
        return answer_from_ollama(service, request, response, {route, std::move(body), std::move(*wants), record, id});
    }
    if (!prompt) return failed(no_llama(program, prompt.error()));
    if (Result<void> r = can_tell(*wants, service); !r) return refuse(response, openai, r.error());
    const bool names_a_slot = body.contains("id_slot") && body["id_slot"].is_number() && body["id_slot"] != -1;
    auto exchange = std::make_shared<LlamaExchange>();
    exchange->route = asked.route;
    exchange->answers = &service.answers;
    exchange->id = id;
    exchange->tokens_asked = is_true(*read, "return_tokens");
    exchange->timings_asked = is_true(*read, "timings_per_token");
    LlamaAsked wanted{std::move(*prompt), std::move(*wants), is_true(*read, "stream"), record};
    Result<LlamaStarted> started = start_llama(service, program, request_to_program(request),
                                               body_for_program(std::move(body), asked.route), std::move(wanted), gone);
    if (!started) return failed(started.error());
    const std::shared_ptr<Upstream> upstream = started->upstream;
    const Upstream::Head& head = started->head;
    if (head.status != 200) return pass_answer_on(service, request, response, upstream, head);
    exchange->rows = std::move(started->rows);
    const auto type = head.headers.find("Content-Type");
    const bool events = type != head.headers.end() && type->second.rfind("text/event-stream", 0) == 0;
    pass_head_on(response, head);
    if (names_a_slot) name_ignored(response, {"id_slot"});
    if (events) return stream(request, response, upstream, exchange, gone);
    Result<std::string> whole = upstream->read_all(most_answer, gone);
    if (!whole) return refuse_unreached(response, request, whole.error());
    const std::string content_type = response.get_header_value("Content-Type");
    response.headers.erase("Content-Type");
    response.set_content(exchange->whole(*whole), content_type);
}

} // namespace

void add_llama_front(httplib::Server& http, FrontService& service) {
    const auto add = [&](const char* path, Asked asked) {
        http.Post(path, [&service, asked](const httplib::Request& q, httplib::Response& a) {
            generate(service, q, a, asked);
        });
    };
    add("/completion", {LlamaRoute::completion, false});
    add("/completions", {LlamaRoute::completion, false});
    add("/v1/completions", {LlamaRoute::openai, false});
    add("/v1/chat/completions", {LlamaRoute::openai, true});
    for (const char* path : {"/infill", "/v1/responses", "/v1/messages", "/responses"}) {
        http.Post(path, [&service](const httplib::Request& q, httplib::Response& a) {
            pass_without_attention(service, q, a, true);
        });
    }
}

} // namespace attnscope::server
