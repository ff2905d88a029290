// What the routes of a front share.
#pragma once

#include "server/dialects/attention_wants.h"
#include "server/front/answers.h"
#include "server/front/front.h"
#include "server/front/slot_pool.h"
#include "server/http/pipelined_server.h"

#include <httplib.h>

#include <atomic>
#include <string>

namespace attnscope::server {

class Access;

struct FrontService {
    const FrontOptions& options;
    LiveSequences& live;
    const Access* access = nullptr;
    SlotPool slots;
    Answers answers;
    std::atomic<bool> closing{false};
    std::atomic<bool> program_ends{false}; // it was asked to
    std::atomic<bool> warned_of_one_cache{false};
};

// Whether nobody is left to read the answer to `request`.
// A program that was asked to end says nothing more, and waits for them: nothing that is sent tells then who only says no more.
inline GoneAway gone_away(const httplib::Request& request, const FrontService& service) {
    return [closed = request.is_connection_closed, silent = PipelinedServer::says_no_more(), &service] {
        return service.closing || (closed && closed()) || (service.program_ends && silent());
    };
}

// Whether what a request asks of attention can be told here (can_tell.cpp).
Result<void> can_tell(const AttentionWants& wants, const FrontService& service);

// Do these bytes name attention as everybody writes it?
inline bool spells_attention(const std::string& body) {
    return body.find("\"attention\"") != std::string::npos || body.find("\"output_attentions\"") != std::string::npos ||
           body.find("\"output_hidden_states\"") != std::string::npos;
}
// Can they name it at all? JSON may write a letter as \u00XX. What cannot need not be read for it.
inline bool names_attention(const std::string& body) {
    return spells_attention(body) || body.find("\\u00") != std::string::npos;
}
// Is there something for us to do, as far as the bytes say?
inline bool may_be_ours(const std::string& body) {
    return names_attention(body) || body.find("\"record\"") != std::string::npos;
}
// Of an answer that is not streamed nobody takes any row before its end: so many times --stream-mb may wait.
inline constexpr size_t most_waiting_whole = 8;
// `asked`: what `output_hidden_states` is given; null: nothing. Nobody before a program has them.
Result<void> check_hidden_states(const Json* asked);

// llama-server ends where a body nests so deep that its reader has no stack left.
inline constexpr int most_levels = 1000;

// ---- passing on (pass_on.cpp) ----
// httplib reads forms and decodes bodies by these headers, so they are renamed before it looks.
void keep_body_as_it_is(httplib::Request& request);
// The request as the program gets it.
httplib::Request request_to_program(const httplib::Request& request);
// Headers that the program's own routes want (keys), for questions of ours.
httplib::Headers headers_for_questions(const httplib::Request& request);
// The program's answer as it comes.
void pass_on(FrontService& service, const httplib::Request& request, httplib::Response& response);
// The same of an answer that has begun.
void pass_answer_on(FrontService& service, const httplib::Request& request, httplib::Response& response,
                    std::shared_ptr<Upstream> upstream, const Upstream::Head& head);
// Status and headers alone. Nothing of its framing: bodies are framed anew.
void pass_head_on(httplib::Response& response, const Upstream::Head& head);
void refuse_unreached(httplib::Response& response, const httplib::Request& request, const Error& error);
// What a compressed body asks is not seen here: where it may ask for attention it is refused.
bool is_compressed(const httplib::Request& request);
void refuse_compressed(const httplib::Request& request, httplib::Response& response);
// Where attention is not answered (without_attention.cpp): who asks for it is refused. `generates`: it is known to.
void pass_without_attention(FrontService& service, const httplib::Request& request, httplib::Response& response,
                            bool generates);
// GET / (first_page.cpp), where there is a page of ours.
void first_page(FrontService& service, const httplib::Request& request, httplib::Response& response);

// ---- families of routes ----
void add_llama_front(httplib::Server& http, FrontService& service);
void add_halo_weave_front(httplib::Server& http, FrontService& service);
void add_kobold_front(httplib::Server& http, FrontService& service);
void add_ollama_front(httplib::Server& http, FrontService& service);
void add_socket_front(httplib::Server& http, FrontService& service);

} // namespace attnscope::server
