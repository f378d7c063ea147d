// Writes one small tokenizer.json of every form that published models use, and
// the token ids that the reference implementation gives for a list of texts.
//
//	npm install --ignore-scripts tokenizers@0.23.2 && node make.js
//
// "tokenizers" is the Rust library that defines the format, under Node.
const fs = require('fs'), path = require('path')
const t = require('tokenizers')
const here = process.argv[2] || __dirname

const lines = [
  'the lathe turns the wood and the wood turns round',
  'a lathe that turns slowly makes a round bowl', 'makers of bowls turn wood on lathes',
  'turning wood makes dust, and dust makes makers sneeze!', "it's what they've made; isn't it round?",
  'The year 2024 had 366 days and 12 months.', 'Größe und Länge, über alles Häuser', 'naïve café résumé coöperate',
  'numbers 1 22 333 4444 55555', 'x = y + z; if (x > 10) { return "done"; }',
  '木の器を回す', '轆轤で木を回す', 'the smaller the bowl, the slower the turning of the lathe',
]
const texts = [
  'the lathe turns', 'The Lathe TURNS the wood!', '', ' ', '  two  spaces and   three ', 'line one\nline two\r\n\n\nline five', 'tab\tseparated\twords',
  "it's they've isn't DON'T we'll I'd", 'Größe über Länge', 'naïve café résumé', 'e\u0301tude combining', '木の器を回す。', 'wood木wood', 'emoji 🙂 and 👩‍🔧 joined',
  'numbers 1234567 and 3.14159, 2024-11-29', 'x=y+z;if(x>10){return"done";}', 'unknown ☃ snow', 'a'.repeat(30), 'smaller slower rounder makers', '[CLS] the [MASK] turns [SEP]', '<s> the </s> lathe <pad>',
  'the <|endoftext|> lathe', '\u00a0non-breaking\u00a0space', 'full width ＡＢＣ１２３ ﬁne ½', '...!?;:--', 'ß ẞ İ ı Ω K', 'zero\u200bwidth \ufeffbom', 'ctrl\u0001char\u007f', ' leading', 'trailing ', 'mask<mask>mask <mask> mask',
  'control\u0085line\u2028sep', 'ﷺ Ⅷ ①', 'नमस्ते दुनिया', 'مرحبا بالعالم', 'שלום', 'สวัสดี', 'Zażółć gęślą jaźń', '한국어 텍스트', 'ＡＢＣ',
]
fs.mkdirSync(here, {recursive: true})
const corpus = path.join(require('os').tmpdir(), 'corpus.txt')
fs.writeFileSync(corpus, lines.concat(lines, lines).join('\n'))

const save = (tok) => JSON.parse((tok.save(corpus + '.json'), fs.readFileSync(corpus + '.json', 'utf8')))
const special = (id, content, more) => Object.assign({id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true}, more)
const template = (cls, sep) => ({type: 'TemplateProcessing',
  single: [{SpecialToken: {id: cls[0], type_id: 0}}, {Sequence: {id: 'A', type_id: 0}}].concat(sep ? [{SpecialToken: {id: sep[0], type_id: 0}}] : []),
  pair: [{SpecialToken: {id: cls[0], type_id: 0}}, {Sequence: {id: 'A', type_id: 0}}].concat(sep ? [{SpecialToken: {id: sep[0], type_id: 0}}] : [], [{Sequence: {id: 'B', type_id: 1}}], sep ? [{SpecialToken: {id: sep[0], type_id: 1}}] : []),
  special_tokens: Object.fromEntries([cls].concat(sep ? [sep] : []).map(([s, id]) => [s, {id: s, ids: [id], tokens: [s]}]))})

// train returns the model of a trained tokenizer, with extra tokens in front.
function train(model, pre, extra, most, normalizer) {
  const tok = new t.Tokenizer(model)
  if (pre) tok.setPreTokenizer(pre)
  if (normalizer) tok.setNormalizer(normalizer)
  tok.train([corpus])
  return save(tok).model
}
// shift puts tokens before those of a BPE and cuts it to so many merges.
function bpe(pre, extra, merges, opts, normalizer, alphabet) {
  const m = train(t.BPE.empty(), pre, extra, merges, normalizer)
  m.merges = m.merges.map(x => typeof x === 'string' ? x.split(' ') : x)
  const chars = alphabet || [...new Set(Object.keys(m.vocab).filter(x => [...x].length === 1))].sort()
  const vocab = {}
  const add = s => { if (!(s in vocab)) vocab[s] = Object.keys(vocab).length }
  extra.forEach(add); chars.forEach(add)
  const kept = []
  for (const [a, b] of m.merges) if (kept.length < merges && a in vocab && b in vocab) { add(a + b); kept.push([a, b]) }
  return Object.assign({type: 'BPE', dropout: null, unk_token: null, continuing_subword_prefix: null, end_of_word_suffix: null, fuse_unk: false, byte_fallback: false, ignore_merges: false, vocab, merges: kept}, opts)
}
const bytes = [...Array(256).keys()].map(i => '<0x' + i.toString(16).toUpperCase().padStart(2, '0') + '>')
const base = {version: '1.0', truncation: null, padding: null, added_tokens: [], normalizer: null, pre_tokenizer: null, post_processor: null, decoder: null, model: null}
const of = (o) => Object.assign({}, base, o)
const forms = {}

{ // BERT
  const pieces = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']
  const words = 'the lathe turn wood round a that make slow bowl and dust of on what it is they have made year day month number small great large und über alles grosse lange haus naive cafe resume x y z if return done mask line tab two three space one emoji joined ! ? . , ; : \' " ( ) { } = + > - 1 2 3 10 20 24 器 木 を の'.split(' ')
  const tails = '##s ##ing ##er ##est ##ly ##ed ##t ##ve ##ll ##d ##n ##re ##m ##1 ##2 ##3 ##4 ##5 ##6 ##7 ##8 ##9 ##0 ##aus ##e ##r ##u ##a ##o ##i ##l ##b ##c ##w ##h ##g ##separated ##木'.split(' ')
  const letters = 'abcdefghijklmnopqrstuvwxyzßø½ıω'.split('')
  const vocab = {}; pieces.concat(words, tails, letters).forEach(s => { if (!(s in vocab)) vocab[s] = Object.keys(vocab).length })
  const model = {type: 'WordPiece', unk_token: '[UNK]', continuing_subword_prefix: '##', max_input_chars_per_word: 100, vocab}
  const added = pieces.map((s, i) => special(i, s))
  const bert = (o) => of(Object.assign({added_tokens: added, normalizer: {type: 'BertNormalizer', clean_text: true, handle_chinese_chars: true, strip_accents: null, lowercase: true},
    pre_tokenizer: {type: 'BertPreTokenizer'}, post_processor: template(['[CLS]', 2], ['[SEP]', 3]), decoder: {type: 'WordPiece', prefix: '##', cleanup: true}, model}, o))
  forms['bert'] = bert({})
  forms['bert-cased'] = bert({normalizer: {type: 'BertNormalizer', clean_text: true, handle_chinese_chars: true, strip_accents: false, lowercase: false}, post_processor: {type: 'BertProcessing', sep: ['[SEP]', 3], cls: ['[CLS]', 2]}})
  forms['bert-padded'] = bert({truncation: {direction: 'Right', max_length: 6, strategy: 'LongestFirst', stride: 0}, padding: {strategy: {Fixed: 8}, direction: 'Right', pad_to_multiple_of: null, pad_id: 0, pad_type_id: 0, pad_token: '[PAD]'}})
}
const byteLevel = {type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true}
const alphabet = t.byteLevelAlphabet().sort()
{ // GPT-2, with merges as strings, as files had them until 2024, and RoBERTa
  const model = bpe(t.byteLevelPreTokenizer(false), [], 120, {}, null, alphabet)
  const n = Object.keys(model.vocab).length
  model.vocab['<|endoftext|>'] = n
  model.merges = model.merges.map(m => m.join(' '))
  forms['gpt2'] = of({added_tokens: [special(n, '<|endoftext|>', {normalized: true})], pre_tokenizer: byteLevel, post_processor: {type: 'ByteLevel', add_prefix_space: true, trim_offsets: false, use_regex: true}, decoder: Object.assign({}, byteLevel, {add_prefix_space: true}), model})
  const r = bpe(t.byteLevelPreTokenizer(false), ['<s>', '<pad>', '</s>', '<unk>'], 120, {}, null, alphabet)
  const k = Object.keys(r.vocab).length; r.vocab['<mask>'] = k
  forms['roberta'] = of({added_tokens: ['<s>', '<pad>', '</s>', '<unk>'].map((s, i) => special(i, s, {normalized: true})).concat([special(k, '<mask>', {lstrip: true})]),
    pre_tokenizer: byteLevel, post_processor: {type: 'RobertaProcessing', sep: ['</s>', 2], cls: ['<s>', 0], trim_offsets: true, add_prefix_space: false}, decoder: byteLevel, model: r})
}
const splits = {
  llama3: "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
  qwen2: "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
}
for (const [name, re] of Object.entries(splits)) {
  const pre = {type: 'Sequence', pretokenizers: [{type: 'Split', pattern: {Regex: re}, behavior: 'Isolated', invert: false}, {type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false}]}
  const model = bpe(t.byteLevelPreTokenizer(false), [], 150, {ignore_merges: name === 'llama3'}, null, alphabet)
  const n = Object.keys(model.vocab).length
  forms[name] = of({added_tokens: [special(n, '<|begin_of_text|>'), special(n + 1, '<|endoftext|>')], normalizer: name === 'qwen2' ? {type: 'NFC'} : null, pre_tokenizer: pre,
    post_processor: name === 'llama3' ? {type: 'Sequence', processors: [{type: 'ByteLevel', add_prefix_space: true, trim_offsets: false, use_regex: true}, template(['<|begin_of_text|>', n])]} : {type: 'ByteLevel', add_prefix_space: false, trim_offsets: false, use_regex: false},
    decoder: Object.assign({}, byteLevel, {add_prefix_space: true}), model})
}
{ // LLaMA: spaces are ▁, unknown characters fall back to bytes, no words
  const extra = ['<unk>', '<s>', '</s>'].concat(bytes)
  const model = bpe(t.metaspacePreTokenizer('▁'), extra, 150, {unk_token: '<unk>', fuse_unk: true, byte_fallback: true})
  const normal = {type: 'Sequence', normalizers: [{type: 'Prepend', prepend: '▁'}, {type: 'Replace', pattern: {String: ' '}, content: '▁'}]}
  const decoder = {type: 'Sequence', decoders: [{type: 'Replace', pattern: {String: '▁'}, content: ' '}, {type: 'ByteFallback'}, {type: 'Fuse'}, {type: 'Strip', content: ' ', start: 1, stop: 0}]}
  const added_tokens = ['<unk>', '<s>', '</s>'].map((s, i) => special(i, s))
  forms['llama'] = of({added_tokens, normalizer: normal, post_processor: template(['<s>', 1]), decoder, model})
  const tool = Object.keys(model.vocab).length
  forms['llama-tool'] = of({added_tokens: added_tokens.concat([special(tool, 'turns', {normalized: true, special: false}), special(tool + 1, 'Größe', {special: false})]), normalizer: normal, post_processor: template(['<s>', 1]), decoder, model})
  forms['mistral'] = of({added_tokens, pre_tokenizer: {type: 'Metaspace', replacement: '▁', prepend_scheme: 'first', split: false}, post_processor: template(['<s>', 1]), decoder, model})
  forms['gemma'] = of({added_tokens, normalizer: {type: 'Replace', pattern: {String: ' '}, content: '▁'}, pre_tokenizer: {type: 'Split', pattern: {String: ' '}, behavior: 'MergedWithPrevious', invert: false},
    post_processor: template(['<s>', 1]), decoder: {type: 'Sequence', decoders: decoder.decoders.slice(0, 3)}, model})
}
{ // CLIP: the end of a word is marked
  const model = {type: 'BPE', dropout: null, unk_token: '<|endoftext|>', continuing_subword_prefix: '', end_of_word_suffix: '</w>', fuse_unk: false, byte_fallback: false, ignore_merges: false, vocab: {}, merges: []}
  const add = s => { if (!(s in model.vocab)) model.vocab[s] = Object.keys(model.vocab).length }
  alphabet.forEach(add); alphabet.forEach(c => add(c + '</w>'))
  for (const m of ['t h', 'th e</w>', 'l a', 'la th', 'lath e</w>', 'w o', 'o d</w>', 'wo od</w>', 't u', 'r n', 'tu rn', 'turn s</w>']) { const [a, b] = m.split(' '); add(a + b); model.merges.push([a, b]) }
  const n = Object.keys(model.vocab).length; model.vocab['<|startoftext|>'] = n; model.vocab['<|endoftext|>'] = n + 1
  forms['clip'] = of({added_tokens: [special(n, '<|startoftext|>', {normalized: true}), special(n + 1, '<|endoftext|>')],
    normalizer: {type: 'Sequence', normalizers: [{type: 'NFC'}, {type: 'Replace', pattern: {Regex: '\\s+'}, content: ' '}, {type: 'Lowercase'}]},
    pre_tokenizer: {type: 'Sequence', pretokenizers: [{type: 'Split', pattern: {Regex: "'s|'t|'re|'ve|'m|'ll|'d|[\\p{L}]+|[\\p{N}]|[^\\s\\p{L}\\p{N}]+"}, behavior: 'Removed', invert: true}, {type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true}]},
    post_processor: {type: 'RobertaProcessing', sep: ['<|endoftext|>', n + 1], cls: ['<|startoftext|>', n], trim_offsets: false, add_prefix_space: false}, decoder: Object.assign({}, byteLevel), model})
}
{ // T5 and XLM-RoBERTa: Unigram
  const m = train(t.Unigram.empty(), t.metaspacePreTokenizer('▁'), [], 0, t.nfkcNormalizer())
  const pieces = m.vocab.filter(([s]) => s !== '<unk>').sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1)).slice(0, 260)
  const chars = [...new Set(lines.join('').replace(/ /g, '▁'))].filter(c => !pieces.some(([s]) => s === c)).sort().map(c => [c, -12])
  const vocab = (front) => front.map(s => [s, 0]).concat(pieces, chars)
  const meta = {type: 'Metaspace', replacement: '▁', prepend_scheme: 'always', split: true}
  forms['t5'] = of({added_tokens: ['<pad>', '</s>', '<unk>'].map((s, i) => special(i, s)), normalizer: {type: 'Sequence', normalizers: [{type: 'NFKC'}, {type: 'Replace', pattern: {Regex: ' {2,}'}, content: ' '}]},
    pre_tokenizer: {type: 'Sequence', pretokenizers: [{type: 'WhitespaceSplit'}, meta]},
    post_processor: {type: 'TemplateProcessing', single: [{Sequence: {id: 'A', type_id: 0}}, {SpecialToken: {id: '</s>', type_id: 0}}], pair: [{Sequence: {id: 'A', type_id: 0}}, {SpecialToken: {id: '</s>', type_id: 0}}, {Sequence: {id: 'B', type_id: 0}}, {SpecialToken: {id: '</s>', type_id: 0}}], special_tokens: {'</s>': {id: '</s>', ids: [1], tokens: ['</s>']}}},
    decoder: meta, model: {type: 'Unigram', unk_id: 2, vocab: vocab(['<pad>', '</s>', '<unk>']), byte_fallback: false}})
  const x = vocab(['<s>', '<pad>', '</s>', '<unk>'])
  forms['xlm-roberta'] = of({added_tokens: ['<s>', '<pad>', '</s>', '<unk>'].map((s, i) => special(i, s)).concat([special(x.length, '<mask>', {lstrip: true, normalized: true})]),
    pre_tokenizer: meta, post_processor: template(['<s>', 0], ['</s>', 2]), decoder: meta, model: {type: 'Unigram', unk_id: 3, vocab: x, byte_fallback: false}})
  const b = vocab(['<pad>', '</s>', '<unk>'].concat(bytes))
  forms['unigram-bytes'] = of({added_tokens: ['<pad>', '</s>', '<unk>'].map((s, i) => special(i, s)), pre_tokenizer: meta,
    decoder: {type: 'Sequence', decoders: [{type: 'ByteFallback'}, meta]}, model: {type: 'Unigram', unk_id: 2, vocab: b, byte_fallback: true}})
}
{ // words and nothing else
  const vocab = {}; ['<unk>', 'the', 'lathe', 'turns', 'wood', '!', 'and'].forEach((s, i) => vocab[s] = i)
  forms['words'] = of({added_tokens: [special(0, '<unk>')], normalizer: {type: 'Sequence', normalizers: [{type: 'NFD'}, {type: 'Lowercase'}, {type: 'StripAccents'}]}, pre_tokenizer: {type: 'Whitespace'}, model: {type: 'WordLevel', vocab, unk_token: '<unk>'}})
}
{ // every way to split and to normalize, seen by a model that marks the ends of words
  const vocab = {}, parts = alphabet.concat(alphabet.map(c => c + '</w>'))
  parts.forEach((s, i) => vocab[s] = i)
  const model = {type: 'BPE', dropout: null, unk_token: null, continuing_subword_prefix: '', end_of_word_suffix: '</w>', fuse_unk: false, byte_fallback: false, vocab, merges: []}
  const plain = {type: 'ByteLevel', add_prefix_space: false, trim_offsets: false, use_regex: false}
  const seen = (o, pre) => of(Object.assign({model, pre_tokenizer: pre ? {type: 'Sequence', pretokenizers: [pre, plain]} : plain, decoder: {type: 'Sequence', decoders: [{type: 'BPEDecoder', suffix: '</w>'}]}}, o))
  const split = (name, o) => { forms['split-' + name] = seen({}, o) }
  split('punctuation', {type: 'Punctuation', behavior: 'MergedWithPrevious'})
  split('digits', {type: 'Digits', individual_digits: false})
  split('digit', {type: 'Digits', individual_digits: true})
  split('delimiter', {type: 'CharDelimiterSplit', delimiter: 'e'})
  split('whitespace', {type: 'Whitespace'})
  split('next', {type: 'Split', pattern: {String: 'e'}, behavior: 'MergedWithNext', invert: false})
  split('contiguous', {type: 'Split', pattern: {Regex: '[aeiou]'}, behavior: 'Contiguous', invert: false})
  split('invert', {type: 'Split', pattern: {Regex: '[a-z]+'}, behavior: 'MergedWithNext', invert: true})
  split('prefix', {type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true})
  split('metaspace', {type: 'Metaspace', replacement: '_', prepend_scheme: 'first', split: true})
  const change = (name, ...list) => { forms['change-' + name] = seen({normalizer: {type: 'Sequence', normalizers: list}}) }
  change('nmt', {type: 'Nmt'}, {type: 'NFKD'})
  change('strip', {type: 'Strip', strip_left: true, strip_right: false}, {type: 'Lowercase'}, {type: 'Prepend', prepend: '>'})
  change('accents', {type: 'NFKD'}, {type: 'StripAccents'}, {type: 'Replace', pattern: {Regex: '[0-9]+'}, content: '#'})
  // A table as SentencePiece compiles it: a double array (darts-clone), and the
  // replacements. Every unit of ours has its children in a block of 256.
  const compile = (rules) => {
    const root = {next: {}}; let values = Buffer.alloc(0)
    for (const [from, to] of rules) {
      let n = root
      for (const b of Buffer.from(from)) n = n.next[b] = n.next[b] || {next: {}}
      n.value = values.length
      values = Buffer.concat([values, Buffer.from(to), Buffer.from([0])])
    }
    const units = [], put = (i, v) => { while (units.length <= i) units.push(0x80000000 >>> 0); units[i] = v >>> 0 }
    let free = 256
    const place = (node, at, label) => {
      const block = free; free += 256
      put(at, ((at ^ block) << 10 | (node.value !== undefined ? 256 : 0) | label) >>> 0)
      put(block + 255, 0x80000000)
      if (node.value !== undefined) put(block, (0x80000000 | node.value) >>> 0)
      for (const [b, child] of Object.entries(node.next)) place(child, block ^ b, +b)
    }
    place(root, 0, 0)
    const table = Buffer.alloc(4 * units.length)
    units.forEach((u, i) => table.writeUInt32LE(u, 4 * i))
    const head = Buffer.alloc(4); head.writeUInt32LE(table.length)
    return Buffer.concat([head, table, values]).toString('base64')
  }
  change('precompiled', {type: 'Precompiled', precompiled_charsmap: compile([['ﬁ', 'fi'], ['Ａ', 'A'], ['½', '1/2'], ['\u00a0', ' '], ['é', 'e'], ['e\u0301', 'E'], ['ß', 'ss'], ['\t', ' '], ['🙂', ':)']])})
  forms['added'] = seen({added_tokens: [special(512, 'lathe', {single_word: true, special: false}), special(513, '<mask>', {lstrip: true, rstrip: true}), special(514, 'The', {normalized: true, special: false}),
    special(515, 'turn', {special: false}), special(516, 'turns', {special: false}), special(517, ' wood', {special: false})], normalizer: {type: 'Lowercase'}})
}
;(async () => {
  const golden = {}
  for (const [name, form] of Object.entries(forms)) {
    const text = JSON.stringify(form)
    fs.writeFileSync(path.join(here, name + '.json'), text + '\n')
    const tok = t.Tokenizer.fromString(text)
    golden[name] = []
    for (const s of texts) {
      const e = await tok.encode(s), plain = await tok.encode(s, null, {addSpecialTokens: false})
      golden[name].push({ids: e.getIds(), types: e.getTypeIds(), mask: e.getAttentionMask(), plain: plain.getIds(), text: await tok.decode(e.getIds(), true)})
    }
  }
  fs.writeFileSync(path.join(here, 'golden.json'), JSON.stringify({made_by: 'tokenizers ' + require('tokenizers/package.json').version, texts, golden}, null, 0).replace(/\},\{/g, '},\n{') + '\n')
})().catch(e => { console.error(e); process.exit(1) })
