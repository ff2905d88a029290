// Routes at which attention is not answered. Whoever asks for it there is told so: never an answer without it, and no word why.
#include "base/bounded_json.h"
#include "server/front/front_service.h"
#include "server/front/kobold_front.h"
#include "server/front/llama_program.h"
#include "server/front/ollama_front.h"
#include "server/http/reply.h"

#include <algorithm>
#include <array>
#include <string>
#include <string_view>
#include <vector>

namespace attnscope::server {

namespace {

constexpr const char* before_llama =
    "attention is answered at /completion, /v1/completions, /v1/chat/completions, /api/v1/generate and "
    "/api/extra/generate/stream";
constexpr const char* before_ollama = "at /v1/completions, /v1/chat/completions, /api/chat and /api/generate";
// Of llama-server: they tell something about a request, which clients send as it is. Nothing is generated.
constexpr std::array<std::string_view, 8> told_of{"/tokenize",
                                                  "/detokenize",
                                                  "/apply-template",
                                                  "/chat/completions/input_tokens",
                                                  "/v1/chat/completions/input_tokens",
                                                  "/responses/input_tokens",
                                                  "/v1/responses/input_tokens",
                                                  "/v1/messages/count_tokens"};

// Where it is answered, or something else that knows more than this is said: to those who ask with POST.
bool is_answered(const std::string& path) {
    constexpr std::array<std::string_view, 8> routes{"/completion",      "/completions",
                                                     "/v1/completions",  "/v1/chat/completions",
                                                     "/api/v1/generate", "/api/extra/generate/stream",
                                                     "/api/chat",        "/api/generate"};
    return std::find(routes.begin(), routes.end(), path) != routes.end();
}

// Null: it is no JSON, or nests as the program is not given it.
Json read(const std::string& body) {
    if (!names_attention(body) || !base::json_depth_is_bounded(body, most_levels)) return {};
    Json read = Json::parse(body, nullptr, false);
    return read.is_object() ? read : Json();
}

bool asks(const Json& body, const char* name) {
    return body.contains(name) && !body[name].is_null() && body[name] != Json(false);
}

// Of the program that is there; of one that is not known all of them.
std::string where(const FrontService& service, const httplib::Request& request) {
    const LlamaProgram llama(service.options.to, headers_for_questions(request), gone_away(request, service));
    std::string out = before_llama;
    if (kobold_of(service, request).is_there())
        out = "before KoboldCPP attention is answered at /api/extra/generate/stream";
    else if (ollama_of(service, request).is_there())
        out = std::string("attention is answered ") + before_ollama;
    else if (!llama.props())
        out += std::string(" (before Ollama ") + before_ollama + ")";
    return out + ", not here: ask without it";
}

} // namespace

void pass_without_attention(FrontService& service, const httplib::Request& request, httplib::Response& response,
                            bool generates) {
    const Json body = read(request.body);
    if (body.is_null()) {
        if (generates && is_compressed(request)) return refuse_compressed(request, response);
        return pass_on(service, request, response);
    }
    const Dialect dialect = dialect_of(request.path);
    // another program's "attention" may be a word of its own
    const bool given = asks(body, "attention") && (generates || body["attention"].is_object());
    const bool attentions = asks(body, "output_attentions"), attention = given || attentions;
    if (std::find(told_of.begin(), told_of.end(), request.path) != told_of.end()) {
        std::vector<std::string> ignored;
        if (given) ignored.emplace_back("attention");
        if (attentions) ignored.emplace_back("output_attentions");
        name_ignored(response, ignored);
        return pass_on(service, request, response);
    }
    if (attention && !service.options.server.attention) return refuse(response, dialect, 400, no_attention_here);
    if (attention && request.method != "POST" && is_answered(request.path))
        return refuse_method(request, response, "POST");
    if (attention) return refuse(response, dialect, 400, where(service, request));
    if (asks(body, "output_hidden_states")) {
        if (Result<void> r = check_hidden_states(&body["output_hidden_states"]); !r)
            return refuse(response, dialect, r.error());
    }
    pass_on(service, request, response);
}

} // namespace attnscope::server
