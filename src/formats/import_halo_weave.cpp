// Halo Weave capture folders: metadata.json, and for each token either token_00000_meta.json with
// token_00000_attn.bin (raw float32; `attention_shape`, `attention_context_length`), or the older
// token_00000.json.
#include "formats/importers.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

namespace attnscope::formats {

namespace {

constexpr int64_t metadata_limit = 1 << 20;
constexpr int64_t json_token_limit = int64_t(4) << 30;

struct Folder {
    int fd = -1;
    ~Folder() {
        if (fd >= 0) ::close(fd);
    }
};

// Which files of a token exist.
enum Parts : uint8_t { part_meta = 1, part_data = 2, part_json = 4 };

struct TokenFiles {
    int64_t number = 0;
    int32_t digits = 0; // as written: token_00007 and token_7 are different files
    uint8_t parts = 0;
};

// "token_00012_attn.bin" -> number 12, 5 digits, part_data.
std::optional<TokenFiles> token_file(std::string_view name) {
    if (name.substr(0, 6) != "token_") return std::nullopt;
    name.remove_prefix(6);
    TokenFiles file;
    size_t i = 0;
    for (; i < name.size() && name[i] >= '0' && name[i] <= '9'; ++i) {
        if (i >= 12) return std::nullopt;
        file.number = file.number * 10 + (name[i] - '0');
    }
    if (i == 0) return std::nullopt;
    file.digits = static_cast<int32_t>(i);
    const std::string_view rest = name.substr(i);
    if (rest == "_meta.json")
        file.parts = part_meta;
    else if (rest == "_attn.bin")
        file.parts = part_data;
    else if (rest == ".json")
        file.parts = part_json;
    else
        return std::nullopt;
    return file;
}

std::string token_stem(const TokenFiles& files) {
    std::string digits = std::to_string(files.number);
    if (static_cast<int32_t>(digits.size()) < files.digits) digits.insert(0, size_t(files.digits) - digits.size(), '0');
    return "token_" + digits;
}

Result<std::vector<TokenFiles>> list_tokens(int folder, const std::string& path) {
    const int copy = ::openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR* listing = copy >= 0 ? fdopendir(copy) : nullptr;
    if (!listing) {
        if (copy >= 0) ::close(copy);
        return Error{ErrorKind::io, "cannot list " + path + ": " + std::strerror(errno)};
    }
    std::vector<TokenFiles> found;
    while (const dirent* entry = readdir(listing)) {
        if (auto file = token_file(entry->d_name)) found.push_back(*file);
    }
    closedir(listing);
    std::sort(found.begin(), found.end(), [](const TokenFiles& a, const TokenFiles& b) {
        return a.number != b.number ? a.number < b.number : a.digits < b.digits;
    });
    std::vector<TokenFiles> tokens;
    for (const TokenFiles& file : found) {
        if (!tokens.empty() && tokens.back().number == file.number && tokens.back().digits == file.digits) {
            tokens.back().parts |= file.parts;
        } else {
            tokens.push_back(file);
        }
    }
    return tokens;
}

class HaloWeaveReader final : public DumpReader {
public:
    static OpenedDump open(const std::string& path) {
        std::unique_ptr<HaloWeaveReader> reader(new HaloWeaveReader);
        reader->folder_.fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (reader->folder_.fd < 0) {
            return Error{errno == ENOENT ? ErrorKind::not_found : ErrorKind::io,
                         "cannot open the folder " + path + ": " + std::strerror(errno)};
        }
        reader->info_.path = path;
        reader->info_.axes = "token (a file each), layer, head, key";
        reader->info_.axes_why = "the form of a capture folder";
        auto tokens = list_tokens(reader->folder_.fd, path);
        if (!tokens) return tokens.error();
        reader->files_ = std::move(*tokens);
        const bool has_metadata = reader->read_metadata();
        if (reader->files_.empty()) {
            if (has_metadata) return Error{ErrorKind::damaged, path + " is a capture folder with 0 tokens"};
            return Error{ErrorKind::not_ours, path + " is not a capture folder: it has neither metadata.json nor files "
                                                     "named token_00000_meta.json or token_00000.json"};
        }
        bool json = true;
        for (const TokenFiles& files : reader->files_) json = json && !(files.parts & (part_meta | part_data));
        reader->info_.format = json ? "halo-weave-json" : "halo-weave";
        reader->info_.storage = json ? "json" : "float32";
        reader->info_.n_tokens = static_cast<int64_t>(reader->files_.size());
        return std::unique_ptr<DumpReader>(std::move(reader));
    }

    const DumpInfo& info() const override { return info_; }
    bool at_end() const override { return next_ >= files_.size(); }

    Result<const DumpToken*> next() override {
        if (at_end()) return static_cast<const DumpToken*>(nullptr);
        const TokenFiles files = files_[next_];
        // a labelled folder holds what was kept of another: its gaps are meant
        if (info_.labels.empty() && next_ > 0 && !gap_told_ && files.number > files_[next_ - 1].number + 1) {
            gap_told_ = true;
            const int64_t first = files_[next_ - 1].number + 1, last = files.number - 1;
            return Error{ErrorKind::not_found, first == last ? "token " + std::to_string(first) + " is missing"
                                                             : "tokens " + std::to_string(first) + " to " +
                                                                   std::to_string(last) + " are missing"};
        }
        gap_told_ = false;
        turn_ ^= 1;
        now().token = DumpToken{};
        now().token.index = static_cast<int64_t>(next_++);
        now().token.number = files.number;
        auto done = files.parts & (part_meta | part_data) ? read_binary(files) : read_json(files);
        if (!done) {
            // whatever is wrong with one token's files concerns that token alone
            const ErrorKind kind = done.error().kind;
            return Error{kind == ErrorKind::not_found ? kind : ErrorKind::damaged, done.error().message};
        }
        return &now().token;
    }

private:
    std::string shown(const std::string& name) const { return info_.path + "/" + name; }

    bool read_metadata() {
        auto file = base::InputFile::open_in(folder_.fd, "metadata.json", shown("metadata.json"));
        if (!file) {
            info_.notes.push_back(file.error().kind == ErrorKind::not_found ? "metadata.json is missing"
                                                                            : file.error().message);
            return false;
        }
        auto text = file->read_text(metadata_limit);
        if (!text) {
            info_.notes.push_back(text.error().message);
            return true;
        }
        auto metadata = base::parse_json_object(*text, "metadata.json");
        if (!metadata) {
            info_.notes.push_back(metadata.error().message);
            return true;
        }
        info_.model = stated_model(*metadata);
        const auto labels = metadata->find("attnscope_labels");
        if (labels != metadata->end() && labels->is_array()) {
            for (const auto& label : *labels) {
                if (label.is_string() && info_.labels.size() < 64) {
                    info_.labels.push_back(label.get<std::string>().substr(0, 4096));
                }
            }
        }
        return true;
    }

    Result<void> read_binary(const TokenFiles& files) {
        const std::string meta_name = token_stem(files) + "_meta.json", data_name = token_stem(files) + "_attn.bin";
        Slot& slot = now();
        DumpToken& token = slot.token;
        token.source = data_name;
        auto meta_file = base::InputFile::open_in(folder_.fd, meta_name, shown(meta_name));
        if (!meta_file) return meta_file.error();
        auto text = meta_file->read_text(metadata_limit);
        if (!text) return text.error();
        auto meta = base::parse_json_object(*text, shown(meta_name));
        if (!meta) return meta.error();
        token.stated_context = base::json_integer(*meta, "attention_context_length", 0, INT64_MAX).value_or(-1);
        token.token_id = static_cast<int32_t>(base::json_integer(*meta, "token_id", 0, INT32_MAX).value_or(-1));
        token.text = base::json_string(*meta, "text");
        token.kept_as = base::json_string(*meta, "attnscope_kept_as");
        const std::vector<int64_t> stated = base::json_shape(*meta, "attention_shape");
        const auto shape = token_shape(stated);
        const auto elements = shape.empty() ? std::nullopt : base::shape_elements(shape, max_token_elements);
        if (!elements || shape[0] > INT32_MAX || shape[1] > INT32_MAX) {
            return Error{ErrorKind::damaged,
                         shown(meta_name) +
                             (stated.empty() ? " states no attention_shape of whole numbers"
                                             : " states the shape " + base::shape_text(stated) +
                                                   ", which is not [layers, heads, context] of a size that is read")};
        }
        auto data = base::InputFile::open_in(folder_.fd, data_name, shown(data_name));
        if (!data) return data.error();
        const int64_t needed = *elements * int64_t(sizeof(float));
        if (data->size() != needed) {
            return Error{ErrorKind::damaged, shown(data_name) + " has " + std::to_string(data->size()) +
                                                 " bytes; the shape " + base::shape_text(stated) + " needs " +
                                                 std::to_string(needed) +
                                                 (data->size() < needed ? " (half written?)" : "")};
        }
        token.n_layer = static_cast<int32_t>(shape[0]);
        token.n_head = static_cast<int32_t>(shape[1]);
        token.n_context = shape[2];
        token.missing_rows = base::json_integer(*meta, "attnscope_missing_rows", 0, shape[0] * shape[1]).value_or(0);
        token.missing_tail = base::json_integer(*meta, "attnscope_missing_tail", 0, token.missing_rows).value_or(0);
        const size_t n = static_cast<size_t>(*elements);
        slot.buffer.resize(n); // bounded by the size of the file that exists
        token.values = slot.buffer.values();
        return data->read_at(0, slot.buffer.data(), n * sizeof(float));
    }

    Result<void> read_json(const TokenFiles& files) {
        const std::string name = token_stem(files) + ".json";
        Slot& slot = now();
        slot.token.source = name;
        auto file = base::InputFile::open_in(folder_.fd, name, shown(name));
        if (!file) return file.error();
        auto text = file->read_text(json_token_limit);
        if (!text) return text.error();
        auto parsed = parse_halo_weave_json(*text, shown(name), slot.token, slot.values);
        slot.token.values = slot.values;
        return parsed;
    }

    Folder folder_;
    DumpInfo info_;
    std::vector<TokenFiles> files_;
    size_t next_ = 0;
    bool gap_told_ = false;
    struct Slot {
        DumpToken token;
        base::TokenBuffer buffer;  // of the binary form
        std::vector<float> values; // of the JSON form
    };
    Slot& now() { return slots_[turn_]; }
    std::array<Slot, 2> slots_; // in turns: the token before is still looked at
    size_t turn_ = 0;
};

} // namespace

OpenedDump open_halo_weave(const std::string& folder) {
    return HaloWeaveReader::open(folder);
}

StatedModel stated_model(const nlohmann::json& metadata) {
    StatedModel model;
    const auto take = [&](const nlohmann::json& object) {
        const auto number = [&](int32_t& field, std::initializer_list<const char*> keys) {
            for (const char* key : keys) {
                if (field == 0) field = static_cast<int32_t>(base::json_integer(object, key, 1, 1 << 24).value_or(0));
            }
        };
        number(model.n_layer, {"num_layers", "num_hidden_layers", "n_layer"});
        number(model.n_head, {"num_attention_heads", "n_head"});
        number(model.n_head_kv, {"num_key_value_heads", "n_head_kv"});
        number(model.n_ctx, {"max_context_length", "n_ctx"});
        number(model.head_dim, {"head_dim"});
        for (const char* key : {"model_name", "model", "name"}) {
            if (model.name.empty()) model.name = base::json_string(object, key, 512);
        }
    };
    take(metadata);
    for (const char* key : {"model", "model_info", "model_config", "config"}) {
        const auto inner = metadata.find(key);
        if (inner != metadata.end() && inner->is_object()) take(*inner);
    }
    return model;
}

std::vector<int64_t> token_shape(std::vector<int64_t> shape) {
    if (shape.size() == 4 && shape[0] == 1) shape.erase(shape.begin());
    if (shape.size() == 1) shape.insert(shape.begin(), {1, 1});
    if (shape.size() != 3) shape.clear();
    return shape;
}

} // namespace attnscope::formats
