#include "server/view/routes.h"

#include "server/http/event_stream.h"
#include "server/http/reply.h"
#include "server/view/page.h"
#include "server/view/scores.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <string_view>

namespace attnscope::server {

namespace {

using Request = httplib::Request;
using Response = httplib::Response;

constexpr Dialect dialect = Dialect::openai; // {"error": {"message", ...}}
constexpr int64_t most_sequences = int64_t(1) << 40;

Error bad(const std::string& why) {
    return {ErrorKind::invalid_argument, why};
}

Result<int64_t> integer(const Request& request, const char* name, int64_t otherwise, int64_t low, int64_t high) {
    if (!request.has_param(name)) return otherwise;
    const std::string text = request.get_param_value(name);
    int64_t value = 0;
    const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (ec != std::errc() || end != text.data() + text.size() || value < low || value > high) {
        return bad(fmt::format("\"{}\" must be a whole number from {} to {}", name, low, high));
    }
    return value;
}

Result<view::Selection> selection(const Request& request) {
    view::Selection s;
    const Result<int64_t> layer = integer(request, "layer", -1, 0, 1 << 16),
                          head = integer(request, "head", -1, 0, 1 << 16);
    if (!layer) return layer.error();
    if (!head) return head.error();
    const std::string reduce = request.has_param("reduce") ? request.get_param_value("reduce") : "mean";
    if (reduce != "mean" && reduce != "max") return bad("\"reduce\" must be mean or max");
    s.layer = static_cast<int32_t>(*layer);
    s.head = static_cast<int32_t>(*head);
    s.max = reduce == "max";
    return s;
}

template <typename T> void binary(Response& response, const std::vector<T>& values) {
    response.set_content(std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)),
                         "application/octet-stream");
}

void give(Response& response, const Result<std::vector<float>>& values) {
    if (values)
        binary(response, *values);
    else
        refuse(response, dialect, values.error());
}
void give(Response& response, const Result<Json>& body) {
    if (body)
        reply(response, *body);
    else
        refuse(response, dialect, body.error());
}
void not_yet(Response& response, double progress) {
    reply(response, {{"progress", progress}}, 202);
}
void give(Response& response, const std::optional<Result<Json>>& body, double progress) {
    if (body) return give(response, *body);
    not_yet(response, progress);
}

void give_info(const Request&, Response& response, Viewed& viewed) {
    const Result<RecordingInfo> info = viewed.info();
    if (!info) return refuse(response, dialect, info.error());
    const Result<Json> tokens = viewed.tokens();
    if (!tokens) return refuse(response, dialect, tokens.error());
    const Result<SequenceList::Counts> counts = viewed.sequences().counts();
    if (!counts) return refuse(response, dialect, counts.error());
    Json body = info_json(viewed.name(), *info, (*tokens)["n_prompt"].get<int64_t>());
    body["sequence"] = viewed.sequence();
    body["n_sequences"] = counts->n_sequences;
    body["n_recorded"] = counts->n_frames;
    if (!(*tokens)["damage"].get<std::string>().empty()) {
        const std::string notice = body["notice"].get<std::string>();
        body["notice"] = (notice.empty() ? "" : notice + "; ") + "damaged: " + (*tokens)["damage"].get<std::string>() +
                         "; the rest is shown";
    }
    reply(response, body);
}

void give_tokens(const Request&, Response& response, Viewed& viewed) {
    give(response, viewed.tokens());
}

void give_sequences(const Request&, Response& response, Viewed& viewed) {
    if (viewed.kind() == Viewed::Kind::capture)
        return refuse(response, dialect, 404, viewed.name() + " is a capture by another program: it has no sequences");
    give(response, viewed.sequences().json());
}

void give_health(const Request&, Response& response, Viewed& viewed) {
    give(response, viewed.health());
}

void give_heads(const Request&, Response& response, Viewed& viewed) {
    double progress = 0;
    const auto body = viewed.heads(progress);
    give(response, body, progress);
}

void give_row(const Request& request, Response& response, Viewed& viewed) {
    const Result<view::Selection> s = selection(request);
    const Result<int64_t> token = integer(request, "t", 0, 0, int64_t(1) << 40);
    if (!s) return refuse(response, dialect, s.error());
    if (!token) return refuse(response, dialect, token.error());
    give(response, viewed.row(*token, *s));
}

void give_tile(const Request& request, Response& response, Viewed& viewed) {
    const Result<view::Selection> s = selection(request);
    const Result<int64_t> level = integer(request, "level", 0, 0, 40), x = integer(request, "x", 0, 0, 1 << 24),
                          y = integer(request, "y", 0, 0, 1 << 24);
    if (!s) return refuse(response, dialect, s.error());
    for (const auto* n : {&level, &x, &y}) {
        if (!*n) return refuse(response, dialect, n->error());
    }
    double progress = 0;
    const auto picture = viewed.picture(*s, progress);
    if (!picture) return not_yet(response, progress);
    if (!*picture) return refuse(response, dialect, picture->error());
    const view::AtWork at_work(viewed.courtesy());
    const auto tile = (**picture)->tile(static_cast<int32_t>(*level), *x, *y);
    if (!tile) return refuse(response, dialect, tile.error());
    // Half of a causal model's picture is the future: of a tile in which nothing is nothing is sent.
    if (std::all_of(tile->begin(), tile->end(), [](uint16_t half) { return half == 0; }))
        return binary(response, std::vector<uint16_t>());
    binary(response, *tile);
}

void give_column(const Request& request, Response& response, Viewed& viewed) {
    const Result<view::Selection> s = selection(request);
    const Result<int64_t> token = integer(request, "t", 0, 0, int64_t(1) << 40);
    if (!s) return refuse(response, dialect, s.error());
    if (!token) return refuse(response, dialect, token.error());
    double progress = 0;
    const auto ready = viewed.denominators(*s, progress);
    if (!ready) return not_yet(response, progress);
    if (!*ready) return refuse(response, dialect, ready->error());
    const auto t = viewed.tensors();
    if (!t) return refuse(response, dialect, t.error());
    give(response, view::column(**t, *token, *s));
}

void give_scores(const Request&, Response& response, const view::RecordedTensors& t, const view::Selection& s) {
    give(response, scores_answer(t, s));
}

void give_prune(const Request& request, Response& response, const view::RecordedTensors& t, const view::Selection& s) {
    const Result<int64_t> budget = integer(request, "budget", t.size(), 0, int64_t(1) << 40);
    if (!budget) return refuse(response, dialect, budget.error());
    give(response, prune_answer(t, s, request.get_param_value("policy"), *budget));
}

void give_head(const Request&, Response& response, const view::RecordedTensors& t, const view::Selection& s) {
    const Result<view::HeadDetail> d = view::head_detail(t, s.layer, s.head);
    if (!d) return refuse(response, dialect, d.error());
    reply(response, detail_json(*d));
}

template <bool rolled>
void give_flow(const Request& request, Response& response, const view::RecordedTensors& t, const view::Selection& s) {
    const Result<int64_t> begin = integer(request, "begin", 1, 0, int64_t(1) << 40),
                          end = integer(request, "end", t.size(), 1, int64_t(1) << 40);
    if (!begin) return refuse(response, dialect, begin.error());
    if (!end) return refuse(response, dialect, end.error());
    give(response, rolled ? view::rollout(t, *begin, *end) : view::flow(t, s, *begin, *end));
}

// A question about the tensors in memory, under the selection that the request names.
template <auto question> void ask(const Request& request, Response& response, Viewed& viewed) {
    const Result<view::Selection> s = selection(request);
    if (!s) return refuse(response, dialect, s.error());
    const auto t = viewed.tensors();
    if (!t) return refuse(response, dialect, t.error());
    question(request, response, **t, *s);
}

struct Route {
    const char* path;
    void (*answer)(const Request&, Response&, Viewed&);
    std::string_view words; // that the question knows
};

constexpr Route of_a_recording[] = {
    {"sequences", give_sequences, "r"},
    {"info", give_info, "r s"},
    {"tokens", give_tokens, "r s"},
    {"health", give_health, "r s"},
    {"heads", give_heads, "r s"},
    {"row", give_row, "r s t layer head reduce"},
    {"tile", give_tile, "r s level x y layer head reduce"},
    {"column", give_column, "r s t layer head reduce"},
    {"scores", ask<give_scores>, "r s layer head reduce"},
    {"prune", ask<give_prune>, "r s policy budget layer head reduce"},
    {"head", ask<give_head>, "r s layer head"},
    {"flow", ask<give_flow<false>>, "r s begin end layer head reduce"},
    {"rollout", ask<give_flow<true>>, "r s begin end"}, // is of all layers and heads
};

// A word that a question does not know would change nothing, without a sound; of one that is given twice one would count.
Result<void> check_words(const Request& request, std::string_view known) {
    for (const auto& [name, value] : request.params) {
        bool is_known = false;
        for (size_t at = 0; at <= known.size();) {
            const size_t end = std::min(known.find(' ', at), known.size());
            is_known = is_known || (!name.empty() && known.substr(at, end - at) == name);
            at = end + 1;
        }
        const std::string said = printable(name, 60);
        if (!is_known && known.empty())
            return bad(fmt::format("this question takes no \"{}\", nor anything else", said));
        if (!is_known) return bad(fmt::format("this question takes no \"{}\"; it takes: {}", said, known));
        if (request.params.count(name) > 1) return bad(fmt::format("\"{}\" is given more than once", said));
    }
    return {};
}

Json list_json(ViewSources& sources) {
    Json list = Json::array();
    for (const ViewSources::Named& s : sources.list())
        list.push_back({{"id", s.id},
                        {"name", s.name},
                        {"kind", s.capture ? "capture" : "recording"},
                        {"of_server", s.of_server},
                        {"gone", s.gone},
                        {"words", base64(s.glance.words.data(), s.glance.words.size())},
                        {"warm_up", s.glance.warm_up}});
    return list;
}

// A browser says whether a page of another site asks; such a page could not read the answer, but could make us work.
bool from_another_site(const Request& request) {
    const std::string site = request.get_header_value("Sec-Fetch-Site");
    return !site.empty() && site != "same-origin" && site != "none";
}

} // namespace

bool is_view_page(const std::string& path) {
    return path == "/view/" || path == "/view/viewer.js" || path == "/view/viewer.css";
}

bool is_get(const httplib::Request& request) {
    return request.method == "GET" || request.method == "HEAD";
}

namespace {

// Media types are the same in letters of any size.
bool accepts_html(const std::string& header) {
    std::string accept = "," + header;
    std::erase_if(accept, [](unsigned char c) { return c == ' ' || c == '\t'; });
    std::transform(accept.begin(), accept.end(), accept.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    const size_t at = accept.find(",text/html");
    if (at == std::string::npos) return false;
    const std::string how = accept.substr(at + 10, accept.find(',', at + 1) - at - 10); // parameters
    const size_t quality = how.find(";q=0");
    const bool refused = quality != std::string::npos && how.find_first_not_of("0.", quality + 3) == std::string::npos;
    return !refused && (how.empty() || how.front() == ';');
}

} // namespace

bool wants_first_page(const httplib::Request& request) {
    return is_get(request) && request.path == "/" && accepts_html(request.get_header_value("Accept"));
}

void add_view_page(httplib::Server& http) {
    const auto send = [](httplib::Response& response, std::string_view body, const char* type) {
        response.set_header("Content-Security-Policy", page_policy);
        response.set_header("X-Content-Type-Options", "nosniff");
        response.set_header("Referrer-Policy", "no-referrer");
        response.set_header("Cross-Origin-Resource-Policy", "same-origin");
        response.set_header("Cross-Origin-Opener-Policy", "same-origin");
        response.set_header("Cache-Control", "no-cache");
        response.set_content(std::string(body), type);
    };
    http.Get("/view", [](const httplib::Request&, httplib::Response& response) { response.set_redirect("/view/"); });
    http.Get("/view/", [send](const httplib::Request&, httplib::Response& response) {
        send(response, page_html(), "text/html; charset=utf-8");
    });
    http.Get("/view/viewer.js", [send](const httplib::Request&, httplib::Response& response) {
        send(response, page_script(), "text/javascript; charset=utf-8");
    });
    http.Get("/view/viewer.css", [send](const httplib::Request&, httplib::Response& response) {
        send(response, page_style(), "text/css; charset=utf-8");
    });
}

ViewRoutes view_routes(ViewSources& sources, bool live) {
    ViewRoutes routes;
    const auto add = [&](const char* path, std::string_view words, httplib::Server::Handler answer) {
        routes.emplace(path, [answer = std::move(answer), words](const Request& request, Response& response) {
            if (from_another_site(request))
                return refuse(response, dialect, 403, "only this server's own page may ask");
            response.set_header("X-Content-Type-Options", "nosniff");
            response.set_header("Cache-Control", "no-store");
            response.set_header("Cross-Origin-Resource-Policy", "same-origin");
            if (const Result<void> r = check_words(request, words); !r) return refuse(response, dialect, r.error());
            answer(request, response);
        });
    };
    for (const auto& [path, answer, words] : of_a_recording) {
        add(path, words, [&sources, answer = answer](const Request& request, Response& response) {
            const Result<int64_t> sequence = integer(request, "s", 0, 0, most_sequences);
            if (!sequence) return refuse(response, dialect, sequence.error());
            Result<std::shared_ptr<Viewed>> viewed = sources.find({request.get_param_value("r"), *sequence});
            if (!viewed) return refuse(response, dialect, viewed.error());
            answer(request, response, **viewed);
        });
    }
    add("sources", "", [&sources, live](const Request&, Response& response) {
        reply(response, {{"sources", list_json(sources)}, {"live", live}, {"records", live && sources.watches()}});
    });
    add("compare", "a sa b sb", [&sources](const Request& request, Response& response) {
        const Result<int64_t> sa = integer(request, "sa", 0, 0, most_sequences),
                              sb = integer(request, "sb", 0, 0, most_sequences);
        if (!sa) return refuse(response, dialect, sa.error());
        if (!sb) return refuse(response, dialect, sb.error());
        double progress = 0;
        const auto body =
            sources.compare({request.get_param_value("a"), *sa}, {request.get_param_value("b"), *sb}, progress);
        give(response, body, progress);
    });
    return routes;
}

void add_view_routes(httplib::Server& http, ViewSources& sources, bool live) {
    for (auto& [name, handler] : view_routes(sources, live)) http.Get("/view/api/" + name, handler);
}

} // namespace attnscope::server
