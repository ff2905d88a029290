// What takes room is single heads: 270 x 500 x 501 / 2 weights of SmolLM2. Of each head the weights of at least `least`
// are kept: a bit a pair says which, and a byte holds each on a logarithmic scale; then deflate. The bits lie key after
// key, because what reads one token changes less from query to query than what one query reads. `least` is the smallest
// of a ladder with which the file keeps to its size. The mean over all rows is kept whole, as float32.
#include "server/view/export_html.h"

#include "base/output_file.h"
#include "base/parallel_for.h"
#include "server/http/event_stream.h"
#include "server/view/page.h"
#include "server/view/viewed.h"

#include <fmt/format.h>
#include <openssl/evp.h>
#include <zlib.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <mutex>

namespace attnscope::server {

namespace {

constexpr int levels = 126; // codes 0 .. 126, each a byte
constexpr double ladder[] = {0.0002, 0.0005, 0.001, 0.002, 0.003, 0.004, 0.005, 0.006, 0.008,
                             0.01,   0.0125, 0.016, 0.02,  0.03,  0.05,  0.1,   0.2};
constexpr size_t least_head_bytes = 3'000'000;

std::string deflated(const std::vector<uint8_t>& bytes) {
    uLongf size = compressBound(bytes.size());
    std::string out(size, '\0');
    if (compress2(reinterpret_cast<Bytef*>(out.data()), &size, bytes.data(), bytes.size(), Z_BEST_COMPRESSION) != Z_OK)
        return {};
    out.resize(size);
    return out;
}
std::string packed(const std::vector<uint8_t>& bytes) {
    const std::string d = deflated(bytes);
    return base64(d.data(), d.size());
}

std::string policy_hash(std::string_view text) {
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int size = 0;
    if (EVP_Digest(text.data(), text.size(), digest, &size, EVP_sha256(), nullptr) != 1) return {};
    return "'sha256-" + base64(digest, size) + "'";
}

// A script's text must not look like its end.
std::string inline_script() {
    std::string text(page_script());
    for (size_t at = 0; (at = text.find("</script", at)) != std::string::npos; at += 9) text.replace(at, 2, "<\\/");
    for (size_t at = 0; (at = text.find("<!--", at)) != std::string::npos; at += 5) text.replace(at, 2, "<\\!");
    return text;
}

std::string part(const std::string& id, const std::string& body) {
    return fmt::format("<script type=\"application/octet-stream\" id=\"attnscope-{}\">{}</script>\n", id, body);
}

struct PackedHead {
    std::string text;
    double kept = 0, all = 0;
};

// One head: bits of the lower triangle, key after key, then the codes of those that are kept.
Result<PackedHead> pack_head(const view::RecordedTensors& t, int32_t layer, int32_t head, double least) {
    const int64_t n = t.size();
    const auto at = [](int64_t query, int64_t key) { return static_cast<size_t>(query * (query + 1) / 2 + key); };
    std::vector<uint8_t> dense(at(n, 0), 0); // code + 1; 0: left out
    std::vector<float> row;
    PackedHead out;
    const double scale = levels / -std::log(least);
    for (int64_t q = 0; q < n; ++q) {
        if (!t.has_rows(q)) continue;
        row.resize(static_cast<size_t>(t.n_columns(q)));
        if (Result<void> r = t.rows(q, layer, {head, head + 1}, row); !r) return r.error();
        for (int64_t k = 0; k <= q; ++k) {
            const auto w = double(row[static_cast<size_t>(k)]);
            out.all += w;
            if (!(w >= least)) continue;
            out.kept += w;
            const double code = levels + std::log(std::min(w, 1.0)) * scale;
            dense[at(q, k)] = static_cast<uint8_t>(1 + std::clamp(static_cast<int>(std::lround(code)), 0, levels));
        }
    }
    std::vector<uint8_t> bytes((dense.size() + 7) / 8, 0);
    std::vector<uint8_t> codes;
    size_t bit = 0;
    for (int64_t k = 0; k < n; ++k) {
        for (int64_t q = k; q < n; ++q, ++bit) {
            const uint8_t code = dense[at(q, k)];
            if (code == 0) continue;
            bytes[bit >> 3] |= static_cast<uint8_t>(0x80u >> (bit & 7));
            codes.push_back(static_cast<uint8_t>(code - 1));
        }
    }
    bytes.insert(bytes.end(), codes.begin(), codes.end());
    out.text = packed(bytes);
    return out;
}

struct Heads {
    std::vector<std::string> text; // (layer, head); empty: no such head
    double least = 0, kept_share = 0;
};

Result<Heads> pack_heads(const view::RecordedTensors& t, size_t budget, const view::Progress& progress) {
    const Geometry& geometry = t.geometry();
    const auto n_head = static_cast<size_t>(geometry.max_heads());
    Heads out;
    for (const double least : ladder) {
        out.text.assign(static_cast<size_t>(geometry.n_layer()) * n_head, "");
        out.least = least;
        std::atomic<size_t> bytes{0}, done{0};
        std::mutex mutex;
        Result<void> status;
        double kept = 0, all = 0;
        const bool last = least == ladder[std::size(ladder) - 1];
        base::parallel_for_all(out.text.size(), [&](size_t i) {
            const auto layer = static_cast<int32_t>(i / n_head), head = static_cast<int32_t>(i % n_head);
            if (!t.has_layer(layer) || head >= geometry.layers[static_cast<size_t>(layer)].n_head) return;
            if (bytes > budget && !last) return; // too much already: the next rung
            Result<PackedHead> one = pack_head(t, layer, head, least);
            const std::lock_guard lock(mutex);
            if (!one) {
                status = one.error();
                return;
            }
            bytes += one->text.size() + 80;
            kept += one->kept;
            all += one->all;
            out.text[i] = std::move(one->text);
            if (progress && !progress(double(++done) / double(out.text.size())))
                status = Error{ErrorKind::io, "stopped before it was done"};
        });
        if (!status) return status.error();
        out.kept_share = all > 0 ? kept / all : 1;
        if (bytes <= budget) break;
    }
    return out;
}

// What one file cannot hold.
Result<void> check_exportable(const view::RecordedTensors& t) {
    if (Result<void> r = t.check({}); !r) return r;
    for (int64_t i = 0; i < t.size(); ++i) {
        if (t.has_rows(i) && t.n_columns(i) > i + 1)
            return Error{
                ErrorKind::unsupported,
                "tokens of this recording see later ones, and the file holds only what lies before each token; "
                "look at it with: attnscope view"};
    }
    return {};
}

// The page's answers, but for what depends on how the heads were packed.
Result<Json> page_answers(Recording& recording, const view::RecordedTensors& t, const std::string& name) {
    Result<Json> tokens = tokens_json(recording);
    if (!tokens) return tokens.error();
    Result<view::HeadMetrics> metrics = view::head_metrics(t);
    if (!metrics) return metrics.error();
    Result<PositionScores> scores = view::position_scores(t, {}, 32);
    if (!scores && scores.error().kind != ErrorKind::not_found) return scores.error();
    if (!scores) scores = PositionScores(32); // of no row: the page says so
    Result<Json> health = recording_health(recording, recording.info().n_frames);
    if (!health) return health.error();
    Json details = Json::array();
    for (int32_t l = 0; l < t.geometry().n_layer(); ++l) {
        for (int32_t h = 0; h < t.geometry().max_heads(); ++h) {
            Result<view::HeadDetail> d = view::head_detail(t, l, h, 8);
            details.push_back(d ? detail_json(*d) : Json());
        }
    }
    Json has_rows = Json::array(); // where a token has none the packed weights hold nothing, which is not 0
    for (int64_t i = 0; i < t.size(); ++i) has_rows.push_back(t.has_rows(i) ? 1 : 0);
    Json info = info_json(name, recording.info(), (*tokens)["n_prompt"].get<int64_t>());
    return Json{{"info", std::move(info)},        {"tokens", std::move(*tokens)},   {"heads", heads_json(*metrics)},
                {"details", std::move(details)},  {"scores", scores_json(*scores)}, {"health", std::move(*health)},
                {"has_rows", std::move(has_rows)}};
}

// Row after row of the lower triangle, float32: the mean over all layers and heads.
Result<std::string> pack_mean(const view::RecordedTensors& t) {
    std::vector<uint8_t> mean;
    std::vector<float> row;
    for (int64_t q = 0; q < t.size(); ++q) {
        row.assign(static_cast<size_t>(q) + 1, 0.0f);
        if (t.has_rows(q)) {
            if (Result<void> r = t.reduced(q, {}, row); !r) return r.error();
        }
        const auto* bytes = reinterpret_cast<const uint8_t*>(row.data());
        mean.insert(mean.end(), bytes, bytes + (static_cast<size_t>(q) + 1) * sizeof(float));
    }
    return packed(mean);
}

std::string pack_answers(Json body, const Heads& heads) {
    body["packing"] = {{"least", heads.least}, {"levels", levels}};
    body["info"]["weights"] =
        fmt::format("An exported file: means over all layers and heads are exact; weights of single heads and "
                    "layers are rounded to within {:.1f} % of "
                    "themselves, and those below {} % are left out ({:.1f} % of all weight is kept).",
                    50 * (std::pow(1 / heads.least, 1.0 / levels) - 1), 100 * heads.least, 100 * heads.kept_share);
    const std::string text = body.dump(-1, ' ', false, Json::error_handler_t::replace);
    return packed(std::vector<uint8_t>(text.begin(), text.end()));
}

std::string page_with(const std::string& script, const std::string& style, const std::string& parts) {
    return fmt::format(
               "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta "
               "http-equiv=\"Content-Security-Policy\" content=\"default-src "
               "'none'; script-src {}; style-src {}; img-src data: blob:; base-uri 'none'; form-action 'none'\">\n"
               "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<meta "
               "name=\"color-scheme\" content=\"light dark\">\n"
               "<title>attnscope</title>\n<link rel=\"icon\" href=\"data:,\">\n",
               policy_hash(script), policy_hash(style)) +
           "<style>" + style +
           "</style>\n</head>\n<body><div id=\"app\"></div>\n<noscript>This page computes what it shows; it needs "
           "JavaScript.</noscript>\n" +
           parts + "<script type=\"module\">" + script + "</script>\n</body>\n</html>\n";
}

} // namespace

Result<HtmlSummary> export_html(Recording& recording, const std::string& name, const std::string& path,
                                const HtmlOptions& options) {
    if (page_script().empty())
        return Error{ErrorKind::unsupported,
                     "this attnscope was built without the page; run make setup and build again"};
    const RecordingInfo& info = recording.info();
    if (info.n_frames > most_html_tokens) {
        return Error{
            ErrorKind::unsupported,
            fmt::format("{} tokens are too many for one file, which takes {}; look at them with: attnscope view",
                        info.n_frames, most_html_tokens)};
    }
    if (info.n_frames == 0) return Error{ErrorKind::not_found, "the recording holds no tokens"};
    Result<std::shared_ptr<const view::RecordedTensors>> tensors =
        view::RecordedTensors::load(recording, most_tensor_bytes);
    if (!tensors) return tensors.error();
    const view::RecordedTensors& t = **tensors;
    if (Result<void> r = check_exportable(t); !r) return r.error();
    Result<Json> answers = page_answers(recording, t, name);
    if (!answers) return answers.error();
    Result<std::string> mean = pack_mean(t);
    if (!mean) return mean.error();

    const std::string script = inline_script(), style(page_style());
    const size_t fixed = script.size() + style.size() + mean->size() + pack_answers(*answers, {}).size() + 2000;
    Result<Heads> heads =
        pack_heads(t, std::max(least_head_bytes, options.bytes > fixed ? options.bytes - fixed : 0), options.progress);
    if (!heads) return heads.error();
    std::string parts = part("file", pack_answers(*answers, *heads)) + part("mean", *mean);
    int64_t n_heads = 0;
    for (size_t i = 0; i < heads->text.size(); ++i) {
        if (heads->text[i].empty()) continue;
        parts += part(fmt::format("head-{}", i), heads->text[i]);
        ++n_heads;
    }
    const std::string html = page_with(script, style, parts);
    Result<std::unique_ptr<base::OutputFile>> file = base::OutputFile::create(path);
    if (!file) return file.error();
    (*file)->write(html.data(), html.size());
    if (Result<void> r = (*file)->finish(); !r) return r.error();
    return HtmlSummary{t.size(), n_heads, html.size(), heads->least, heads->kept_share};
}

} // namespace attnscope::server
