#include "formats/export_arrays.h"

#include "base/output_file.h"
#include "formats/row_mark.h"
#include "formats/write_whole.h"
#include "recording/missing_rows.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <filesystem>

namespace attnscope::formats {

namespace {

// Version 1.0 of the header: magic, version, length, a Python dictionary, padded so that the data begins at a multiple
// of 64 (NEP 1).
std::string npy_header(const std::vector<int64_t>& shape) {
    std::string dims;
    for (const int64_t d : shape) dims += fmt::format("{}, ", d);
    std::string dict = "{'descr': '<f4', 'fortran_order': False, 'shape': (" + dims + "), }";
    const size_t unpadded = 10 + dict.size() + 1;
    dict.append((64 - unpadded % 64) % 64, ' ');
    dict += '\n';
    std::string header("\x93NUMPY\x01\x00", 8);
    header += static_cast<char>(dict.size() & 0xFF);
    header += static_cast<char>(dict.size() >> 8);
    return header + dict;
}

// Why a token has none of the selected rows; empty: it has one.
std::string why_none(const Recording& recording, const RowSelection& rows, const Frame& frame) {
    if (frame.q.empty())
        return fmt::format("token {} was recorded without its queries: --prompt-rows left them out", frame.index);
    return recording::why_no_rows(recording.info().geometry, rows, frame.index, frame.visible);
}

Result<void> check_layers(const Geometry& geometry, const RowSelection& rows) {
    for (const int32_t l : rows.layers) {
        if (l < 0 || l >= geometry.n_layer())
            return Error{ErrorKind::not_found,
                         fmt::format("there is no layer {}; the recording has {}", l, geometry.n_layer())};
    }
    for (const int32_t h : rows.heads) {
        if (h < 0 || h >= geometry.max_heads())
            return Error{ErrorKind::not_found,
                         fmt::format("there is no head {}; the recording has {}", h, geometry.max_heads())};
    }
    return {};
}

// The tokens to write: those asked for, each of which must have a row, or all that have one.
Result<std::vector<int64_t>> chosen(Recording& recording, const ExportSelection& s) {
    const int64_t n = recording.info().n_frames;
    if (Result<void> r = check_layers(recording.info().geometry, s.rows); !r) return r.error();
    for (const int64_t t : s.tokens) {
        if (t < 0 || t >= n)
            return Error{ErrorKind::not_found, fmt::format("there is no token {}; the recording has {}", t, n)};
        Result<Frame> frame = recording.frame(t, true);
        if (!frame) return frame.error();
        frame->index = t; // of this sequence, whoever holds it
        if (std::string why = why_none(recording, s.rows, *frame); !why.empty())
            return Error{ErrorKind::not_found, std::move(why)};
    }
    if (!s.tokens.empty()) return s.tokens;
    std::vector<int64_t> tokens;
    std::string why;
    for (int64_t i = 0; i < n; ++i) {
        Result<Frame> frame = recording.frame(i, true);
        if (!frame) return frame.error();
        frame->index = i;
        std::string none = why_none(recording, s.rows, *frame);
        if (none.empty())
            tokens.push_back(i);
        else
            why = std::move(none);
    }
    if (tokens.empty())
        return Error{ErrorKind::not_found,
                     why.empty() ? "the recording holds no tokens" : "the recording holds no such rows: " + why};
    return tokens;
}

// The rows of a token, and in those that are not there the mark of row_mark.h.
Result<FrameRows> marked_rows(Recording& recording, int64_t token, const RowSelection& selection) {
    Result<FrameRows> rows = recording.rows(token, selection);
    if (!rows) return rows;
    const Result<Frame> frame = recording.frame(token, false);
    if (!frame) return frame.error();
    const Geometry& geometry = recording.info().geometry;
    auto row = rows->weights.begin();
    for (const int32_t l : rows->layers) {
        const LayerInfo& layer = geometry.layers[static_cast<size_t>(l)];
        const bool there = layer.captured() && has_rows(layer, frame->visible);
        for (const int32_t h : rows->heads) {
            if (!there || h >= layer.n_head) std::fill_n(row, rows->n_columns, missing_number());
            row += rows->n_columns;
        }
    }
    return rows;
}

// Width of the rows of each token: its index + 1, or more where it sees later ones of its batch.
Result<std::vector<int64_t>> widths(Recording& recording, const std::vector<int64_t>& tokens) {
    std::vector<int64_t> all;
    for (const int64_t token : tokens) {
        Result<Frame> frame = recording.frame(token, false);
        if (!frame) return frame.error();
        int64_t width = token + 1;
        for (const Ranges& seen : frame->visible) width = std::max(width, seen.empty() ? 0 : seen.back().end);
        all.push_back(width);
    }
    return all;
}

Result<std::pair<int64_t, int64_t>> extent(Recording& recording, const ExportSelection& s, int64_t token) {
    Result<FrameRows> rows = recording.rows(token, s.rows);
    if (!rows) return rows.error();
    return std::pair{static_cast<int64_t>(rows->layers.size()), static_cast<int64_t>(rows->heads.size())};
}

} // namespace

Result<int64_t> export_npy(Recording& recording, const ExportSelection& s, const std::string& path,
                           const ExportProgress& progress) {
    Result<std::vector<int64_t>> tokens = chosen(recording, s);
    if (!tokens) return tokens.error();
    auto size = extent(recording, s, tokens->front());
    if (!size) return size.error();
    const Result<std::vector<int64_t>> wide = widths(recording, *tokens);
    if (!wide) return wide.error();
    const int64_t columns = *std::max_element(wide->begin(), wide->end());
    const bool one = s.tokens.size() == 1;
    std::vector<int64_t> shape{size->first, size->second, columns};
    if (!one) shape.insert(shape.begin(), static_cast<int64_t>(tokens->size()));
    auto output = base::OutputFile::create(path);
    if (!output) return output.error();
    base::OutputFile& out = **output;
    const std::string header = npy_header(shape);
    out.write(header.data(), header.size());
    const std::vector<float> zeros(static_cast<size_t>(columns), 0.0f),
        missing(static_cast<size_t>(columns), missing_number());
    int64_t done = 0;
    for (const int64_t token : *tokens) {
        Result<FrameRows> rows = marked_rows(recording, token, s.rows);
        if (!rows) return rows.error();
        const int64_t n_rows = size->first * size->second;
        for (int64_t r = 0; r < n_rows; ++r) {
            const float* const row = rows->weights.data() + r * rows->n_columns;
            const bool there = std::bit_cast<uint32_t>(*row) != missing_bits;
            out.write(row, static_cast<size_t>(rows->n_columns) * sizeof(float));
            out.write((there ? zeros : missing).data(), static_cast<size_t>(columns - rows->n_columns) * sizeof(float));
        }
        if (!out.good()) return out.error();
        if (progress) progress(++done, static_cast<int64_t>(tokens->size()));
    }
    if (Result<void> r = out.finish(); !r) return r.error();
    return static_cast<int64_t>(tokens->size());
}

Result<int64_t> export_npy_folder(Recording& recording, const ExportSelection& s, const std::string& folder,
                                  const ExportProgress& progress) {
    Result<std::vector<int64_t>> tokens = chosen(recording, s);
    if (!tokens) return tokens.error();
    if (Result<void> made = make_output_folder(folder); !made) return made.error();
    int64_t done = 0;
    for (const int64_t token : *tokens) {
        ExportSelection one = s;
        one.tokens = {token};
        const std::string path = (std::filesystem::path(folder) / fmt::format("token_{:05}.npy", token)).string();
        if (Result<int64_t> r = export_npy(recording, one, path); !r) return r.error();
        if (progress) progress(++done, static_cast<int64_t>(tokens->size()));
    }
    return static_cast<int64_t>(tokens->size());
}

Result<int64_t> export_safetensors(Recording& recording, const ExportSelection& s, const std::string& path,
                                   const ExportProgress& progress) {
    Result<std::vector<int64_t>> tokens = chosen(recording, s);
    if (!tokens) return tokens.error();
    auto size = extent(recording, s, tokens->front());
    if (!size) return size.error();
    // The header gives every tensor's place in the data that follows it.
    nlohmann::ordered_json header;
    header["__metadata__"] = {{"format", "attnscope"}, {"columns", "frame indices"}};
    uint64_t at = 0;
    Result<std::vector<Frame>> frames = recording.frames(0, recording.info().n_frames);
    if (!frames) return frames.error();
    std::vector<int32_t> ids;
    for (const Frame& f : *frames) ids.push_back(f.token);
    header["token_ids"] = {{"dtype", "I32"}, {"shape", {ids.size()}}, {"data_offsets", {at, at + ids.size() * 4}}};
    at += ids.size() * 4;
    const Result<std::vector<int64_t>> wide = widths(recording, *tokens);
    if (!wide) return wide.error();
    for (size_t i = 0; i < tokens->size(); ++i) {
        const int64_t columns = (*wide)[i];
        const uint64_t bytes = static_cast<uint64_t>(size->first * size->second * columns) * sizeof(float);
        header[fmt::format("token_{:05}", (*tokens)[i])] = {
            {"dtype", "F32"}, {"shape", {size->first, size->second, columns}}, {"data_offsets", {at, at + bytes}}};
        at += bytes;
    }
    std::string text = header.dump();
    text.append((8 - text.size() % 8) % 8, ' ');
    const uint64_t length = text.size();
    auto output = base::OutputFile::create(path);
    if (!output) return output.error();
    base::OutputFile& out = **output;
    out.write(&length, sizeof length);
    out.write(text.data(), text.size());
    out.write(ids.data(), ids.size() * sizeof(int32_t));
    int64_t done = 0;
    for (const int64_t token : *tokens) {
        Result<FrameRows> rows = marked_rows(recording, token, s.rows);
        if (!rows) return rows.error();
        out.write(rows->weights.data(), rows->weights.size() * sizeof(float));
        if (!out.good()) return out.error();
        if (progress) progress(++done, static_cast<int64_t>(tokens->size()));
    }
    if (Result<void> r = out.finish(); !r) return r.error();
    return static_cast<int64_t>(tokens->size());
}

} // namespace attnscope::formats
