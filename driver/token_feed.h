// Feeding tokens: streams of text or of token files, windows of them as the inputs of a program.
#ifndef CHERRY_DRIVER_TOKEN_FEED_H
#define CHERRY_DRIVER_TOKEN_FEED_H

#include "driver/feed.h"

typedef struct TokenFeed TokenFeed;

// As feed_open, for an objective that has an input `tokens`.
TokenFeed *token_feed_open(Ir *ir, const Module *module, const FeedOptions *options);
void token_feed_close(TokenFeed *feed);
bool token_feed_is_text(const TokenFeed *feed);  // the tokenizer made the tokens
bool token_feed_has_valid(const TokenFeed *feed);
int64_t token_feed_batch(const TokenFeed *feed);  // tokens
int64_t token_feed_held(const TokenFeed *feed);   // tokens to predict that are held out
bool token_feed_train(TokenFeed *feed, Runner *runner, int64_t step, int64_t micro, int64_t micro_count,
                      int64_t seed);
bool token_feed_evaluate(TokenFeed *feed, Runner *runner, int64_t limit, Evaluated *evaluated);

#endif
