"""The domains that the texts of prototype tasks are from, and their order."""

# domain -> labelled tasks whose texts it has, and whose classes are prototypes
DOMAINS = {
  'glosses': ('gloss_pos',),
  'reviews': ('amazon_sentiment', 'tweet_sentiment', 'airline_sentiment'),
  'sentences': (),
  'words': ('lexicon_sentiment',),
}
# Domains without labels of their own, and whose classes they borrow: a
# sentence can be nearer to a good review or to a bad one, too.
BORROWED = {'sentences': 'reviews'}
# Pairs of words are made from the words and have a space of their own.
PAIRS = 'pairs'
# Parts of a mixture; their places here are their numbers in its file.
PARTS = (*DOMAINS, PAIRS)
