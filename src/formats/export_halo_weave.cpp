#include "formats/export_halo_weave.h"
#include "base/chosen_or_all.h"
#include "base/version.h"
#include "formats/write_whole.h"
#include "recording/missing_rows.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>

#include <fcntl.h>
#include <unistd.h>

namespace attnscope::formats {

namespace {

std::string dump(const nlohmann::json& body) {
    return body.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

// The shortest text that gives the same float again. JSON knows no NaN and no infinity: null, as
// JSON.stringify writes.
void append_number(std::string& text, float value) {
    if (std::isfinite(value))
        fmt::format_to(std::back_inserter(text), "{}", value);
    else
        text += "null";
}

} // namespace

Result<std::unique_ptr<HaloWeaveFolderWriter>> HaloWeaveFolderWriter::create(const std::string& folder,
                                                                             const StatedModel& model, bool json_form) {
    if (Result<void> made = make_output_folder(folder); !made) return made.error();
    return std::unique_ptr<HaloWeaveFolderWriter>(new HaloWeaveFolderWriter(folder, model, json_form));
}

Result<void> HaloWeaveFolderWriter::write_file(const std::string& name, const void* data, size_t n) const {
    const std::string path = folder_ + "/" + name;
    const auto failure = [&] { return Error{ErrorKind::io, "cannot write " + path + ": " + std::strerror(errno)}; };
    const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (fd < 0) return failure();
    const char* at = static_cast<const char*>(data);
    while (n > 0) {
        const ssize_t written = ::write(fd, at, n);
        if (written < 0 && errno == EINTR) continue;
        if (written < 0) {
            const Error error = failure();
            ::close(fd);
            return error;
        }
        at += written;
        n -= static_cast<size_t>(written);
    }
    if (::close(fd) != 0) return failure();
    return {};
}

void HaloWeaveFolderWriter::add_prompt_token(int32_t token_id, const std::string& text, int64_t position) {
    // a sentence ends behind . ! ? or a line
    int64_t sentence = 0;
    if (!prompt_.empty()) {
        const PromptToken& last = prompt_.back();
        sentence = last.sentence + (last.text.find_first_of(".!?\n") != std::string::npos);
    }
    prompt_.push_back({token_id, text, position, sentence});
}

Result<void> HaloWeaveFolderWriter::add(const DumpToken& token, int64_t position) {
    const std::string stem = fmt::format("token_{:05}", token.number);
    const int64_t context = token.stated_context >= 0 ? token.stated_context : token.n_context;
    const std::vector<int64_t> shape = {token.n_layer, token.n_head, token.n_context};
    nlohmann::json meta = {{"token_index", token.number},
                           {"token_id", token.token_id},
                           {"text", token.text},
                           {"position", position >= 0 ? position : token.number},
                           {"step", token.number}};
    if (json_form_) meta["generation_step"] = token.number;
    if (json_form_) {
        std::string text = dump(meta);
        text.pop_back(); // the closing brace: the numbers do not pass through a tree
        text += fmt::format(",\"attention\":{{\"format\":\"per_layer\",\"shape\":[{},{},{}],\"context_length\":{},",
                            shape[0], shape[1], shape[2], context);
        if (!token.kept_as.empty()) text += "\"kept_as\":" + dump(token.kept_as) + ",";
        text += "\"data\":[";
        for (size_t i = 0; i < token.values.size(); ++i) {
            if (i > 0) text += ',';
            append_number(text, token.values[i]);
        }
        text += "]}}";
        if (auto done = write_file(stem + ".json", text.data(), text.size()); !done) return done;
    } else {
        meta["attention_format"] = "per_layer";
        meta["attention_dtype"] = "float32";
        meta["attention_shape"] = shape;
        meta["attention_context_length"] = context;
        if (!token.kept_as.empty()) meta["attnscope_kept_as"] = token.kept_as;
        if (token.missing_rows > 0) { // zeros stand there: not of a file whose writing stopped
            meta["attnscope_missing_rows"] = token.missing_rows;
            meta["attnscope_missing_tail"] = token.missing_tail;
        }
        if (auto done = write_file(stem + "_attn.bin", token.values.data(), token.values.size_bytes()); !done)
            return done;
        const std::string text = dump(meta);
        if (auto done = write_file(stem + "_meta.json", text.data(), text.size()); !done) return done;
    }
    ++n_tokens_;
    return {};
}

Result<void> HaloWeaveFolderWriter::close() {
    nlohmann::json metadata = {{"writer", base::program()}, {"total_tokens", n_tokens_}, {"model_name", model_.name}};
    const auto state = [&](const char* key, int32_t value) {
        if (value > 0) metadata[key] = value;
    };
    state("num_layers", model_.n_layer);
    state("num_attention_heads", model_.n_head);
    state("num_key_value_heads", model_.n_head_kv);
    state("max_context_length", model_.n_ctx);
    state("head_dim", model_.head_dim);
    // One turn: a recording holds no borders of messages.
    metadata["prompt_tokens"] = nlohmann::json::array();
    for (const PromptToken& t : prompt_) {
        metadata["prompt_tokens"].push_back({{"token_id", t.token_id},
                                             {"text", t.text},
                                             {"position", t.position},
                                             {"turn_id", 0},
                                             {"sentence_id", t.sentence},
                                             {"message_role", "user"}});
    }
    if (!labels_.empty()) metadata["attnscope_labels"] = labels_;
    const std::string text = dump(metadata);
    return write_file("metadata.json", text.data(), text.size());
}

namespace {

// "0,2,3": as --layer and --head take them.
std::string listed(const std::vector<int32_t>& numbers) {
    return fmt::format("{}", fmt::join(numbers, ","));
}

// A folder's numbers are of generated tokens. Where a row is not there (in an encoder's layers, in a layer that was not captured, of a
// head that a layer has not got) zeros would look like damage.
Result<void> check_rows(const Geometry& geometry, const RowSelection& rows) {
    const std::vector<int32_t> layers = base::chosen_or_all(rows.layers, geometry.n_layer()),
                               heads = base::chosen_or_all(rows.heads, geometry.max_heads());
    std::vector<int32_t> there; // layers that could be chosen
    for (int32_t l = 0; l < geometry.n_layer(); ++l) {
        const LayerInfo& layer = geometry.layers[static_cast<size_t>(l)];
        if (layer.captured() && layer.role != LayerRole::encoder) there.push_back(l);
    }
    int32_t least_heads = geometry.max_heads();
    for (const int32_t l : layers) {
        if (l < 0 || l >= geometry.n_layer()) continue; // said by whoever reads rows
        const LayerInfo& layer = geometry.layers[static_cast<size_t>(l)];
        if (layer.role == LayerRole::encoder) {
            return Error{ErrorKind::unsupported,
                         "generated tokens have no rows in the encoder's layers: choose from the decoder's, --layer " +
                             listed(there)};
        }
        if (!layer.captured()) {
            return Error{ErrorKind::unsupported,
                         fmt::format("layer {} has no rows: {}; choose from those that have, --layer {}", l,
                                     layer.absent, listed(there))};
        }
        least_heads = std::min(least_heads, layer.n_head);
    }
    if (std::all_of(heads.begin(), heads.end(), [&](int32_t h) { return h < least_heads; })) return {};
    return Error{
        ErrorKind::unsupported,
        fmt::format("some of these layers have {} heads and others more, and their folder has as many in each: "
                    "choose those that all have, --head 0-{}",
                    least_heads, least_heads - 1)};
}

// Of tokens that were asked for: why one has no file in their folder; empty: it has one.
Result<std::string> why_no_file(Recording& recording, int64_t index) {
    const auto frame = recording.frame(index);
    if (!frame) return frame.error();
    if (frame->kind == FrameKind::prompt) {
        const bool of_decoder = recording::is_of_decoder(recording.info().geometry, frame->visible);
        return fmt::format(
            "token {} is {}, and their folder has files for generated tokens alone; --to npy and safetensors "
            "hold its rows",
            index, of_decoder ? "what the decoder begins with" : "of the prompt");
    }
    if (index == 0) return fmt::format("token {} was chosen by no row that was recorded", index);
    const auto before = recording.frame(index - 1, /*with_q=*/true);
    if (!before) return before.error();
    return before->q.empty() ? fmt::format("token {} was chosen by the row of token {}, which was recorded without its "
                                           "queries: --prompt-rows left them out",
                                           index, index - 1)
                             : std::string();
}

Result<void> check_tokens(Recording& recording, const std::vector<int64_t>& tokens) {
    const int64_t n = recording.info().n_frames;
    std::string first;
    bool any = tokens.empty();
    for (const int64_t index : tokens) {
        if (index < 0 || index >= n)
            return Error{ErrorKind::not_found, fmt::format("there is no token {}; the recording has {}", index, n)};
        Result<std::string> why = why_no_file(recording, index);
        if (!why) return why.error();
        any = any || why->empty();
        if (first.empty()) first = std::move(*why);
    }
    if (any) return {};
    return Error{ErrorKind::not_found, tokens.size() > 1 ? "none of these tokens has a file: " + first : first};
}

} // namespace

Result<int64_t> export_halo_weave(Recording& recording, const ExportSelection& selection, const std::string& folder,
                                  bool json_form, const ExportProgress& progress) {
    const RecordingInfo& info = recording.info();
    if (Result<void> r = check_tokens(recording, selection.tokens); !r) return r.error(); // no other layer would help
    if (Result<void> r = check_rows(info.geometry, selection.rows); !r) return r.error();
    StatedModel model;
    model.name = info.model.name;
    model.n_layer = info.geometry.n_layer();
    model.n_head = info.geometry.max_heads();
    for (const LayerInfo& layer : info.geometry.layers) {
        model.n_head_kv = std::max(model.n_head_kv, layer.n_head_kv);
        model.head_dim = std::max(model.head_dim, layer.head_dim);
    }
    auto writer = HaloWeaveFolderWriter::create(folder, model, json_form);
    if (!writer) return writer.error();
    const auto wanted = [&](int64_t index) {
        return selection.tokens.empty() ||
               std::find(selection.tokens.begin(), selection.tokens.end(), index) != selection.tokens.end();
    };
    int64_t generated = 0, step = 0;
    bool kept = false; // the rows of the frame before
    for (int64_t index = 0; index < info.n_frames; ++index) {
        auto frame = recording.frame(index, /*with_q=*/true);
        if (!frame) return frame.error();
        const bool chosen_by_a_row = kept;
        kept = !frame->q.empty();
        if (frame->kind == FrameKind::prompt) {
            (*writer)->add_prompt_token(frame->token, recording.token_text(frame->token), index);
            continue;
        }
        ++generated;
        if (index == 0 || !chosen_by_a_row || !wanted(index)) {
            ++step;
            continue;
        }
        auto rows = recording.rows(index - 1, selection.rows);
        if (!rows) return rows.error();
        DumpToken token;
        token.number = step++;
        token.token_id = frame->token;
        token.text = recording.token_text(frame->token);
        token.n_layer = static_cast<int32_t>(rows->layers.size());
        token.n_head = static_cast<int32_t>(rows->heads.size());
        token.n_context = rows->n_columns;
        token.values = rows->weights;
        if (auto done = (*writer)->add(token, index); !done) return done.error();
        if (progress) progress(index + 1, info.n_frames);
    }
    if (generated == 0) {
        return Error{ErrorKind::not_found,
                     "the recording holds no generated token, and their folder has files for those alone; "
                     "--to npy and safetensors hold the rows of a prompt"};
    }
    const bool gaps = (*writer)->n_tokens() < generated;
    if ((*writer)->n_tokens() == 0) return Error{ErrorKind::not_found, "the recording holds no rows"};
    // Without a word about them, gaps would look like files that were lost.
    if (gaps) (*writer)->add_label("tokens left out when the recording was made or exported");
    if (auto done = (*writer)->close(); !done) return done.error();
    return (*writer)->n_tokens();
}

} // namespace attnscope::formats
