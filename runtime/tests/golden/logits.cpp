// Golden logits and greedy continuations, computed with llama.cpp on the CPU.
//
//   logits all    OUT.safetensors MODEL.gguf...   64 fixed tokens per model, f32 cache, no flash attention
//   logits greedy MODEL.gguf COUNT CACHE PROMPT...   CACHE is `f32` (as above) or `default`; JSON on stdout
//
// One thread, one batch, no weight repacking. README.md has the build line.
#include "llama.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

static const uint32_t CONTEXT = 256;
static const int POSITIONS = 64;
static const uint32_t SEED = 1;

[[noreturn]] static void fail(const std::string & message) {
    fprintf(stderr, "error: %s\n", message.c_str());
    exit(1);
}

struct Session {
    llama_model * model = nullptr;
    llama_context * context = nullptr;
    const llama_vocab * vocab = nullptr;

    Session(const char * path, bool exact, uint32_t positions) {
        llama_model_params mp = llama_model_default_params();
        mp.use_extra_bufts = false;
        model = llama_model_load_from_file(path, mp);
        if (!model) {
            fail(std::string("cannot load ") + path);
        }
        vocab = llama_model_get_vocab(model);
        llama_context_params cp = llama_context_default_params();
        cp.n_ctx = positions;
        cp.n_batch = positions;
        cp.n_ubatch = positions;
        cp.n_threads = 1;
        cp.n_threads_batch = 1;
        if (exact) {
            cp.type_k = GGML_TYPE_F32;
            cp.type_v = GGML_TYPE_F32;
            cp.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
        }
        context = llama_init_from_model(model, cp);
        if (!context) {
            fail(std::string("cannot create a context for ") + path);
        }
    }

    ~Session() {
        llama_free(context);
        llama_model_free(model);
    }

    // Evaluates `tokens` at positions `first`..; logits of every token in order, [tokens, vocabulary].
    std::vector<float> evaluate(const std::vector<llama_token> & tokens, int first) {
        const int n = (int) tokens.size();
        llama_batch batch = llama_batch_init(n, 0, 1);
        batch.n_tokens = n;
        for (int i = 0; i < n; ++i) {
            batch.token[i] = tokens[i];
            batch.pos[i] = first + i;
            batch.n_seq_id[i] = 1;
            batch.seq_id[i][0] = 0;
            batch.logits[i] = 1;
        }
        if (llama_decode(context, batch) != 0) {
            fail("llama_decode");
        }
        llama_batch_free(batch);
        const size_t width = llama_vocab_n_tokens(vocab);
        std::vector<float> out;
        out.reserve(n * width);
        for (int i = 0; i < n; ++i) {
            const float * row = llama_get_logits_ith(context, i);
            out.insert(out.end(), row, row + width);
        }
        return out;
    }
};

// A linear congruential generator (Numerical Recipes' constants); ids 3.. skip <unk>, <s>, </s>.
static std::vector<llama_token> fixed_tokens(int vocabulary) {
    std::vector<llama_token> tokens;
    uint32_t state = SEED;
    for (int i = 0; i < POSITIONS; ++i) {
        state = state * 1664525u + 1013904223u;
        tokens.push_back(3 + (llama_token) ((state >> 16) % (uint32_t) (vocabulary - 3)));
    }
    return tokens;
}

static std::string stem(const std::string & path) {
    const size_t slash = path.find_last_of('/');
    const size_t start = slash == std::string::npos ? 0 : slash + 1;
    return path.substr(start, path.find_last_of('.') - start);
}

static int write_logits(const char * out, int count, char ** paths) {
    std::string header = "{";
    std::vector<char> data;
    auto add = [&](const std::string & name, const char * type, const std::string & shape, const void * bytes, size_t size) {
        const size_t begin = data.size();
        data.insert(data.end(), (const char *) bytes, (const char *) bytes + size);
        header += (header.size() > 1 ? ",\"" : "\"") + name + "\":{\"dtype\":\"" + type + "\",\"shape\":" + shape +
                  ",\"data_offsets\":[" + std::to_string(begin) + "," + std::to_string(data.size()) + "]}";
    };
    for (int i = 0; i < count; ++i) {
        Session session(paths[i], true, CONTEXT);
        const int vocabulary = llama_vocab_n_tokens(session.vocab);
        const std::vector<llama_token> tokens = fixed_tokens(vocabulary);
        const std::vector<float> logits = session.evaluate(tokens, 0);
        const std::string name = stem(paths[i]);
        add(name, "F32", "[" + std::to_string(POSITIONS) + "," + std::to_string(vocabulary) + "]", logits.data(),
            logits.size() * sizeof(float));
        add(name + ".tokens", "I32", "[" + std::to_string(POSITIONS) + "]", tokens.data(), tokens.size() * sizeof(llama_token));
    }
    header += "}";
    header.resize((header.size() + 7) / 8 * 8, ' ');
    FILE * file = fopen(out, "wb");
    if (!file) {
        fail(std::string("cannot write ") + out);
    }
    const uint64_t size = header.size();
    bool ok = fwrite(&size, sizeof(size), 1, file) == 1;
    ok = fwrite(header.data(), 1, header.size(), file) == header.size() && ok;
    ok = fwrite(data.data(), 1, data.size(), file) == data.size() && ok;
    ok = fclose(file) == 0 && ok;
    if (!ok) {
        fail(std::string("cannot write ") + out);
    }
    return 0;
}

static std::string quoted(const std::string & text) {
    std::string out = "\"";
    for (const unsigned char c : text) {
        if (c == '"' || c == '\\') {
            out += '\\';
            out += (char) c;
        } else if (c < 0x20) {
            char escape[8];
            snprintf(escape, sizeof(escape), "\\u%04x", c);
            out += escape;
        } else {
            out += (char) c;
        }
    }
    return out + "\"";
}

static std::string list(const std::vector<llama_token> & tokens) {
    std::string out = "[";
    for (const llama_token token : tokens) {
        out += (out.size() > 1 ? ", " : "") + std::to_string(token);
    }
    return out + "]";
}

static int write_greedy(const char * path, int count, bool exact, int prompts, char ** texts) {
    printf("[\n");
    for (int p = 0; p < prompts; ++p) {
        Session session(path, exact, 512);
        std::vector<llama_token> prompt(512);
        const int n = llama_tokenize(session.vocab, texts[p], (int) strlen(texts[p]), prompt.data(), (int) prompt.size(),
                                     llama_vocab_get_add_bos(session.vocab), false);
        if (n <= 0) {
            fail("llama_tokenize");
        }
        prompt.resize(n);
        std::vector<llama_token> tokens;
        std::string text;
        // The smallest gap between the two largest logits: how close the choice of a token ever was.
        float margin = 1e30f;
        std::vector<llama_token> next = prompt;
        for (int position = 0; (int) tokens.size() < count;) {
            const std::vector<float> logits = session.evaluate(next, position);
            position += (int) next.size();
            const auto row = logits.end() - llama_vocab_n_tokens(session.vocab);
            const auto best = std::max_element(row, logits.end());
            for (auto other = row; other != logits.end(); ++other) {
                if (other != best) {
                    margin = std::min(margin, *best - *other);
                }
            }
            const llama_token token = (llama_token) (best - row);
            tokens.push_back(token);
            char piece[256];
            const int size = llama_token_to_piece(session.vocab, token, piece, sizeof(piece), 0, false);
            if (size < 0) {
                fail("llama_token_to_piece");
            }
            text.append(piece, size);
            next = {token};
        }
        printf("  {\"prompt\": %s,\n   \"prompt_tokens\": %s,\n   \"tokens\": %s,\n   \"text\": %s,\n   \"smallest_margin\": %.6f}%s\n",
               quoted(texts[p]).c_str(), list(prompt).c_str(), list(tokens).c_str(), quoted(text).c_str(), margin,
               p + 1 < prompts ? "," : "");
    }
    printf("]\n");
    return 0;
}

int main(int argc, char ** argv) {
    llama_log_set([](ggml_log_level level, const char * text, void *) {
        if (level >= GGML_LOG_LEVEL_WARN && level != GGML_LOG_LEVEL_CONT) {
            fputs(text, stderr);
        }
    }, nullptr);
    if (argc >= 4 && strcmp(argv[1], "all") == 0) {
        return write_logits(argv[2], argc - 3, argv + 3);
    }
    if (argc >= 6 && strcmp(argv[1], "greedy") == 0) {
        return write_greedy(argv[2], atoi(argv[3]), strcmp(argv[4], "f32") == 0, argc - 5, argv + 5);
    }
    fprintf(stderr, "usage: logits all OUT.safetensors MODEL.gguf... | logits greedy MODEL.gguf COUNT f32|default PROMPT...\n");
    return 2;
}
