// The contract is in the docstrings of HeadVis's data_pipeline.py (Apache-2.0): config.json, scatter_data.json, heads/L{l}H{h}.json,
// and two files that may be empty objects.
#include "server/view/export_headvis.h"

#include "server/view/viewed.h"
#include "view/recorded/blocks.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>

namespace attnscope::server {

namespace {

constexpr size_t n_top_tokens = 50;
constexpr size_t n_bins = 14; // edges 0, 1, 2, 4, ... 4096

struct Metric {
    const char* name;
    int metric;
    const char* says;
};
constexpr Metric metrics[] = {
    {"self_attention_score", view::m_self, "mean weight on the token itself"},
    {"previous_token_score", view::m_previous, "mean weight on the token before"},
    {"pattern_entropy", view::m_entropy, "mean entropy of a row, nats"},
    {"qk_distance", view::m_distance, "mean distance from query to key, weighted"},
    {"qk_distance_variance", view::m_distance_variance, "mean variance of that distance"},
    {"induction_score", view::m_induction, "mean weight behind earlier occurrences of the query's token"},
    {"first_position_score", view::m_first, "mean weight on the first position"},
    {"local_score", view::m_local, "mean weight on the last 8 tokens"},
    {"retrieval_score", view::m_retrieval, "mean weight on earlier copies of the token that comes next"},
};

// Four decimals, as JSON has them: shorter files, and no digit of rounding.
Json rounded(double v) {
    return std::isfinite(v) ? Json(std::round(v * 1e4) / 1e4) : Json(nullptr);
}

struct Kept {
    int64_t query = 0, key = 0;
    float weight = 0;
};

Result<void> write_json(const std::filesystem::path& path, const Json& json) {
    std::ofstream file(path, std::ios::binary);
    file << json.dump(-1, ' ', false, Json::error_handler_t::replace);
    file.flush();
    if (!file) return Error{ErrorKind::io, "cannot write " + path.string()};
    return {};
}

// The largest of a row inside its window.
void keep_row(std::span<const float> row, int64_t query, std::vector<Kept>& out) {
    const int64_t first = query / headvis_window * headvis_window;
    std::vector<Kept> best;
    for (auto j = static_cast<size_t>(first); j < row.size(); ++j) {
        if (!(double(row[j]) >= headvis_least)) continue;
        best.push_back({query, int64_t(j), row[j]});
    }
    const auto n = std::min(best.size(), static_cast<size_t>(headvis_keys));
    std::partial_sort(
        best.begin(), best.begin() + static_cast<ptrdiff_t>(n), best.end(),
        [](const Kept& a, const Kept& b) { return a.weight != b.weight ? a.weight > b.weight : a.key < b.key; });
    best.resize(n);
    std::sort(best.begin(), best.end(), [](const Kept& a, const Kept& b) { return a.key < b.key; });
    out.insert(out.end(), best.begin(), best.end());
}

Json top_tokens(const std::map<std::string, double>& by_text) {
    std::vector<std::pair<std::string, double>> all(by_text.begin(), by_text.end());
    std::stable_sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.second > b.second; });
    all.resize(std::min(all.size(), n_top_tokens));
    Json list = Json::array();
    for (const auto& [text, weight] : all) list.push_back({{"token", text}, {"weight", rounded(weight)}});
    return list;
}

Json head_file(const std::vector<Kept>& kept, const std::vector<std::string>& texts, int64_t n_intervals) {
    const auto n = static_cast<int64_t>(texts.size());
    const int64_t n_windows = (n + headvis_window - 1) / headvis_window;
    std::vector<Json> sequences(static_cast<size_t>(n_windows));
    std::vector<double> most(static_cast<size_t>(n_windows), 0.0);
    for (int64_t w = 0; w < n_windows; ++w) {
        const int64_t first = w * headvis_window, end = std::min(n, first + headvis_window);
        Json tokens = Json::array();
        for (int64_t i = first; i < end; ++i) tokens.push_back(texts[static_cast<size_t>(i)]);
        sequences[static_cast<size_t>(w)] = {{"sequence_id", w},
                                             {"tokens", tokens},
                                             {"attention_indices", Json::array()},
                                             {"attention_values", Json::array()},
                                             {"seq_len", end - first}};
    }
    std::map<std::string, double> by_query, by_key;
    std::vector<double> bins(n_bins - 1, 0.0);
    for (const Kept& k : kept) {
        const int64_t w = k.query / headvis_window, first = w * headvis_window;
        Json& sequence = sequences[static_cast<size_t>(w)];
        const int64_t length = sequence["seq_len"].get<int64_t>();
        sequence["attention_indices"].push_back((k.query - first) * length + (k.key - first));
        sequence["attention_values"].push_back(rounded(double(k.weight)));
        // Their page leaves out row 0 and column 0 of a sequence, and the diagonal.
        if (k.query > first && k.key > first && k.key != k.query)
            most[static_cast<size_t>(w)] = std::max(most[static_cast<size_t>(w)], double(k.weight));
        by_query[texts[static_cast<size_t>(k.query)]] += double(k.weight);
        by_key[texts[static_cast<size_t>(k.key)]] += double(k.weight);
        bins[std::min<size_t>(n_bins - 2, size_t(std::bit_width(uint64_t(k.query - k.key))))] += double(k.weight);
    }
    std::vector<size_t> order(sequences.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return most[a] < most[b]; });
    double sum = 0;
    for (size_t rank = 0; rank < order.size(); ++rank) {
        const size_t i = order[rank];
        sequences[i]["max_activation"] = rounded(most[i]);
        sequences[i]["interval"] =
            n_intervals - int64_t((order.size() - 1 - rank) * size_t(n_intervals) / order.size());
        sum += most[i];
    }
    Json edges = Json::array({0}), values = Json::array();
    for (size_t b = 1; b < n_bins; ++b) edges.push_back(int64_t(1) << (b - 1));
    for (const double v : bins) values.push_back(rounded(v));
    return {{"sequences", sequences},
            {"qk_distance_histogram", {{"bin_edges", edges}, {"bin_values", values}}},
            {"top_query_tokens", top_tokens(by_query)},
            {"top_key_tokens", top_tokens(by_key)},
            {"histogram", Json::object()},
            {"statistics", {{"mean_max_activation", rounded(sum / double(std::max<int64_t>(1, n_windows)))}}}};
}

// A file of theirs lists what each token reads of those before it, and has no word for a token of which nothing is known.
Result<void> check_exportable(const view::RecordedTensors& t) {
    if (Result<void> r = t.check({}); !r) return r;
    bool any = false;
    for (int64_t i = 0; i < t.size(); ++i) {
        any = any || t.has_rows(i);
        if (t.has_rows(i) && t.n_columns(i) > i + 1) {
            return Error{
                ErrorKind::unsupported,
                "tokens of this recording see later ones, and HeadVis's files hold only what lies before each token; "
                "look at it with: attnscope view"};
        }
    }
    for (int32_t l = 0; l < t.geometry().n_layer(); ++l) {
        if (t.geometry().layers[static_cast<size_t>(l)].role == LayerRole::every) continue;
        return Error{
            ErrorKind::unsupported,
            "this recording is of an encoder and its decoder, and HeadVis's files are of one text; look at it with: "
            "attnscope view"};
    }
    if (!any) return Error{ErrorKind::not_found, "no token was recorded with its queries"};
    return {};
}

Result<void> start_folder(const std::filesystem::path& folder) {
    std::error_code ec;
    if (std::filesystem::exists(folder, ec) &&
        !(std::filesystem::is_directory(folder, ec) && std::filesystem::is_empty(folder, ec)))
        return Error{ErrorKind::invalid_argument, folder.string() + " is there already, and not an empty folder"};
    for (const char* name : {"heads", "attributions"}) {
        if (!std::filesystem::create_directories(folder / name, ec) && ec)
            return Error{ErrorKind::io, "cannot create " + (folder / name).string() + ": " + ec.message()};
    }
    return {};
}

} // namespace

Result<HeadvisSummary> export_headvis(Recording& recording, const std::string& path, const view::Progress& progress) {
    const std::filesystem::path folder(path);
    auto tensors = view::RecordedTensors::load(recording, most_tensor_bytes);
    if (!tensors) return tensors.error();
    const view::RecordedTensors& t = **tensors;
    if (Result<void> r = check_exportable(t); !r) return r.error();
    const auto part = [&](double from, double to) {
        return [&progress, from, to](double done) { return !progress || progress(from + (to - from) * done); };
    };
    Result<view::HeadMetrics> m = view::head_metrics(t, part(0, 0.5));
    if (!m) return m.error();
    if (Result<void> r = start_folder(folder); !r) return r.error();

    std::vector<std::string> texts;
    for (int64_t i = 0; i < t.size(); ++i) texts.push_back(recording.token_text(t.frame(i).token));
    const int64_t n_windows = (t.size() + headvis_window - 1) / headvis_window,
                  n_intervals = std::min<int64_t>(10, n_windows);
    HeadvisSummary summary{t.size(), 0, n_windows};
    Json heads = Json::array(), scatter = Json::array();
    for (int32_t layer = 0; layer < t.geometry().n_layer(); ++layer) {
        if (!t.has_layer(layer)) continue;
        const LayerInfo& info = t.geometry().layers[static_cast<size_t>(layer)];
        const int32_t number = info.layer;
        std::vector<std::vector<Kept>> kept(static_cast<size_t>(info.n_head));
        std::mutex mutex;
        const auto take = [&](int32_t head, int64_t first, size_t n, const attention::BlockRows& rows) {
            std::vector<float> row;
            std::vector<Kept> own;
            for (size_t r = 0; r < n; ++r) {
                row.resize(static_cast<size_t>(first) + r + 1);
                view::copy_row(rows, r, row);
                keep_row(row, first + int64_t(r), own);
            }
            const std::lock_guard lock(mutex);
            std::vector<Kept>& all = kept[static_cast<size_t>(head)];
            all.insert(all.end(), own.begin(), own.end());
        };
        if (Result<void> r = view::each_block(t, layer, {0, info.n_head}, {0, t.size()}, take); !r) return r.error();
        for (int32_t head = 0; head < info.n_head; ++head) {
            std::vector<Kept>& own = kept[static_cast<size_t>(head)];
            std::sort(own.begin(), own.end(), [](const Kept& a, const Kept& b) {
                return a.query != b.query ? a.query < b.query : a.key < b.key;
            });
            const std::string name = fmt::format("L{}H{}.json", number, head);
            if (Result<void> r = write_json(folder / "heads" / name, head_file(own, texts, n_intervals)); !r)
                return r.error();
            Json row = {{"layer", number}, {"head", head}};
            const size_t at = static_cast<size_t>(layer) * static_cast<size_t>(m->n_head) + static_cast<size_t>(head);
            for (const Metric& metric : metrics)
                row[metric.name] = rounded(m->values[static_cast<size_t>(metric.metric)][at]);
            scatter.push_back(row);
            heads.push_back({number, head});
            ++summary.n_heads;
        }
        if (progress && !progress(0.5 + 0.5 * double(layer + 1) / double(t.geometry().n_layer())))
            return Error{ErrorKind::io, "stopped before it was done"};
    }
    Json names = Json::array(), says = Json::object();
    for (const Metric& metric : metrics) {
        names.push_back(metric.name);
        says[metric.name] = metric.says;
    }
    const Json config = {
        {"model_name", recording.info().model.name},
        {"heads", heads},
        {"n_layers", t.geometry().n_layer()},
        {"n_heads", t.geometry().max_heads()},
        {"n_intervals", n_intervals},
        {"metrics", names},
        {"metric_descriptions", says},
        {"head_data_pattern", "L{layer}H{head}.json"},
        {"has_umap", false},
        {"umap_heads", Json::array()},
        {"custom_plots", {{{"key", "qk_distance_histogram"}, {"label", "Q-K distance"}}}},
        {"custom_tables",
         {{{"key", "top_query_tokens"}, {"label", "Top query tokens"}},
          {{"key", "top_key_tokens"}, {"label", "Top key tokens"}}}},
        {"statistics_display", {{"mean_max_activation", {{"label", "Mean max activation"}, {"format", "default"}}}}}};
    if (Result<void> r = write_json(folder / "scatter_data.json", scatter); !r) return r.error();
    if (Result<void> r = write_json(folder / "server_config.json", Json::object()); !r) return r.error();
    if (Result<void> r = write_json(folder / "attributions" / "manifest.json", Json::object()); !r) return r.error();
    if (Result<void> r = write_json(folder / "config.json", config); !r)
        return r.error(); // last: it says the folder is whole
    return summary;
}

} // namespace attnscope::server
