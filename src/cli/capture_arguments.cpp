#include "cli/capture_arguments.h"

namespace attnscope::cli {

void add_dump_arguments(CLI::App& verb, DumpArguments& arguments) {
    verb.add_option(
            "path", arguments.path,
            "A Halo Weave capture folder, a folder of .npy files, or an .npy, .npz, .safetensors (also in shards) or "
            ".attn file, or raw float32 with --shape")
        ->required()
        ->option_text("PATH");
    verb.add_option(
            "--shape", arguments.shape,
            "Shape of raw float32, in the order the numbers lie: tokens,layers,heads,context, or as --axes says")
        ->option_text("N,N,N");
    verb.add_option("--array", arguments.array,
                    "Array to read of a .npz or .safetensors, or a pattern: 'layer_*' (default: all that fit)")
        ->option_text("NAME");
    verb.add_option("--axes", arguments.axes,
                    "What the axes are, where it is not found out: token, layer, head, query, key, one (an axis of 1)")
        ->option_text("layer,head,query,key");
}

Result<std::unique_ptr<DumpReader>> open_dump(const DumpArguments& arguments) {
    CaptureOptions options;
    options.array = arguments.array;
    options.axes = arguments.axes;
    const std::string& text = arguments.shape;
    for (size_t at = 0; at < text.size();) {
        int64_t extent = 0;
        size_t digits = 0;
        for (; at < text.size() && text[at] >= '0' && text[at] <= '9' && digits < 18; ++at, ++digits) {
            extent = extent * 10 + (text[at] - '0');
        }
        const bool end = at == text.size();
        if (digits == 0 || (!end && text[at] != ',') || (!end && at + 1 == text.size())) {
            return Error{ErrorKind::invalid_argument,
                         "--shape is a list of whole numbers, such as 28,28,512, not " + text};
        }
        options.shape.push_back(extent);
        ++at;
    }
    return DumpReader::open(arguments.path, options);
}

Result<Diagnosis> diagnose_path(const DumpArguments& arguments) {
    auto reader = open_dump(arguments);
    if (!reader) return reader.error();
    return diagnose_dump(**reader);
}

} // namespace attnscope::cli
