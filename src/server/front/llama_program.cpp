#include "server/front/llama_program.h"

#include "base/bounded_json.h"
#include "server/http/reply.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

namespace attnscope::server {

namespace {

constexpr size_t most_slots = 4096;

Json json_of(const std::string& text) {
    return base::json_depth_is_bounded(text) ? Json::parse(text, nullptr, false) : Json(Json::value_t::discarded);
}

// The program's words where it has some.
Error told(const Error& error) {
    const Json body = json_of(error.message);
    if (!body.is_object() || !body.contains("error"))
        return {error.kind, "the program refused: " + error.message.substr(0, 512)};
    const Json& why = body["error"];
    const std::string message = why.is_object() && why.contains("message") && why["message"].is_string()
                                    ? why["message"].get<std::string>()
                                    : json_text(why);
    return {error.kind, message.substr(0, 2048)};
}

Result<Json> parsed(Result<std::string> text) {
    if (!text) {
        const Error& error = text.error();
        const bool its_own = error.kind == ErrorKind::invalid_argument || error.kind == ErrorKind::engine ||
                             (error.kind == ErrorKind::not_found && error.message.rfind('{', 0) == 0);
        return its_own ? told(error) : error;
    }
    Json body = json_of(*text);
    if (body.is_discarded()) return Error{ErrorKind::engine, "the program answered what is no JSON"};
    return body;
}

Result<int32_t> token_of(const Json& value) {
    const auto id = base::json_whole(value);
    if (id && *id >= 0 && *id <= std::numeric_limits<int32_t>::max()) return static_cast<int32_t>(*id);
    return Error{ErrorKind::engine, "the program's tokens are no numbers"};
}

// A piece as the program tells it: a text, or bytes where it is part of a character.
std::string bytes_of(const Json& piece) {
    if (piece.is_string()) return piece.get<std::string>();
    std::string out;
    for (const Json& byte : piece.is_array() ? piece : Json::array())
        out += static_cast<char>(base::json_whole(byte).value_or('?'));
    return out;
}

} // namespace

Error program_refused(int status, const std::string& body) {
    return told({status == 503   ? ErrorKind::not_found
                 : status >= 500 ? ErrorKind::engine
                                 : ErrorKind::invalid_argument,
                 body});
}

Result<LlamaProps> LlamaProgram::props() const {
    Result<Json> props = get("/props");
    if (!props) return props.error();
    if (!props->is_object() || !props->contains("total_slots"))
        return Error{ErrorKind::unsupported, "the program behind this server is no llama-server"};
    LlamaProps out;
    const Json settings = props->value("default_generation_settings", Json::object());
    const auto n_ctx =
        settings.is_object() && settings.contains("n_ctx") ? base::json_whole(settings["n_ctx"]) : std::nullopt;
    out.n_ctx = static_cast<int32_t>(std::clamp<int64_t>(n_ctx.value_or(0), 0, std::numeric_limits<int32_t>::max()));
    out.all = std::move(*props);
    return out;
}

int32_t LlamaProgram::special_token(const LlamaProps& props, const char* name) const {
    if (!props.all.contains(name) || !props.all[name].is_string()) return -1;
    const Result<std::vector<int32_t>> ids = tokens_of(props.all[name].get<std::string>(), false);
    return ids && ids->size() == 1 ? ids->front() : -1;
}

Result<std::vector<int32_t>> LlamaProgram::tokens_of(const std::string& text, bool special,
                                                     std::vector<std::string>* pieces) const {
    if (text.empty() && !special) return std::vector<int32_t>();
    const Json asked = {
        {"content", text}, {"add_special", special}, {"parse_special", true}, {"with_pieces", pieces != nullptr}};
    return read_tokens(tokenize(json_text(asked), !pieces), pieces);
}

Result<std::vector<std::string>> LlamaProgram::pieces(int32_t n) const {
    std::vector<int32_t> all(static_cast<size_t>(n));
    std::iota(all.begin(), all.end(), 0);
    std::vector<std::string> out;
    const Json asked = {{"content", std::move(all)}, {"with_pieces", true}};
    const Result<std::vector<int32_t>> told = read_tokens(tokenize(asked.dump(), false), &out);
    if (!told) return told.error();
    if (out.size() != static_cast<size_t>(n))
        return Error{ErrorKind::engine, "the program tells other tokens than asked"};
    return out;
}

Result<std::vector<int32_t>> LlamaProgram::read_tokens(const Result<Json>& answer,
                                                       std::vector<std::string>* pieces) const {
    std::vector<int32_t> out;
    if (!answer) return answer.error();
    if (!answer->is_object() || !answer->contains("tokens") || !(*answer)["tokens"].is_array())
        return Error{ErrorKind::engine, "the program tells no tokens of a text"};
    for (const Json& token : (*answer)["tokens"]) {
        const bool whole = token.is_object() && token.contains("id") && token.contains("piece");
        Result<int32_t> id = token_of(whole ? token["id"] : token);
        if (!id) return id.error();
        out.push_back(*id);
        if (pieces) pieces->push_back(whole ? bytes_of(token["piece"]) : std::string());
    }
    return out;
}

Result<Json> LlamaProgram::get(const std::string& path) const {
    return parsed(ask(to_, "GET", path, headers_, {}, gone_));
}

Result<Json> LlamaProgram::post(const std::string& path, const std::string& body) const {
    Result<Json> answer = parsed(ask(to_, "POST", path, headers_, body, gone_));
    // whoever sends less is answered
    if (!answer && answer.error().kind == ErrorKind::unsupported)
        return Error{ErrorKind::invalid_argument, answer.error().message};
    return answer;
}

// What is told of a token alone, its number, is at most so long: of a text of which more is told than is read that says how many it has.
Result<Json> LlamaProgram::tokenize(const std::string& body, bool numbers) const {
    Result<Json> answer = parsed(ask(to_, "POST", "/tokenize", headers_, body, gone_));
    if (answer || answer.error().kind != ErrorKind::unsupported) return answer;
    const Error too_long{ErrorKind::invalid_argument, answer.error().message};
    constexpr int64_t more_than = most_asked / 12;
    const Result<LlamaProps> props = numbers ? this->props() : Result<LlamaProps>(too_long);
    if (!props || props->n_ctx <= 0 || props->n_ctx > more_than) return too_long;
    return Error{too_long.kind, fmt::format("the text has more than {} tokens; at most {} {} {}", more_than,
                                            props->n_ctx - 1, context_overflow, props->n_ctx)};
}

Result<std::vector<bool>> LlamaProgram::slots() const {
    Result<Json> slots = get("/slots");
    if (slots && slots->is_array() && !slots->empty() && slots->size() <= most_slots) {
        std::vector<bool> busy;
        for (const Json& slot : *slots)
            busy.push_back(slot.is_object() && slot.value("is_processing", Json()) == Json(true));
        return busy;
    }
    Result<LlamaProps> props = this->props(); // --no-slots
    if (!props) return props.error();
    const auto n = base::json_whole(props->all["total_slots"]);
    if (!n || *n < 1 || *n > static_cast<int64_t>(most_slots))
        return Error{ErrorKind::unsupported, "the program behind this server is no llama-server that tells its slots"};
    return std::vector<bool>(static_cast<size_t>(*n), false);
}

Result<std::vector<int32_t>> LlamaProgram::tokens(const OrderedJson& prompt) const {
    const OrderedJson body = {{"content", prompt}, {"add_special", true}, {"parse_special", true}};
    Result<Json> answer = tokenize(body.dump(-1, ' ', false, OrderedJson::error_handler_t::replace), true);
    if (!answer) return answer.error();
    std::vector<int32_t> out;
    if (answer->is_object() && answer->contains("tokens") && (*answer)["tokens"].is_array()) {
        for (const Json& token : (*answer)["tokens"]) {
            Result<int32_t> id = token_of(token);
            if (!id) return id.error();
            out.push_back(*id);
        }
    }
    if (out.empty()) return Error{ErrorKind::invalid_argument, "the prompt has no tokens"};
    return out;
}

Result<std::string> LlamaProgram::text(const std::vector<int32_t>& tokens) const {
    Result<Json> answer = post("/detokenize", Json{{"tokens", tokens}}.dump());
    if (!answer) return answer.error();
    if (!answer->is_object() || !answer->contains("content") || !(*answer)["content"].is_string())
        return Error{ErrorKind::engine, "the program tells no text of tokens"};
    return (*answer)["content"].get<std::string>();
}

Result<std::string> LlamaProgram::chat_prompt(const OrderedJson& body) const {
    Result<Json> answer = post("/apply-template", body.dump(-1, ' ', false, OrderedJson::error_handler_t::replace));
    if (!answer) return answer.error();
    if (!answer->is_object() || !answer->contains("prompt") || !(*answer)["prompt"].is_string())
        return Error{ErrorKind::engine, "the program tells no prompt of a chat"};
    return (*answer)["prompt"].get<std::string>();
}

} // namespace attnscope::server
