"""Sentence frames and words of the languages that stand for their scripts in the embedded corpus: data, no code.

A line `key: a / b / c` adds words under a key (subjects, verb phrases, places, times, connectives, things), a line
`- ...` adds a frame. In a frame `{subject}` takes one of those words, and `{city}`, `{date}`, `{money}` ... something
written by CLDR's data (`corpus_scripts.py`). Words are chosen so that every combination agrees: subjects are singular
and masculine where verbs show gender, names stand in apposition where nouns have cases.
"""

ARABIC = """
subject: الطبيب / المعلم / المهندس / الكاتب / التاجر / الوزير / الطالب / المسافر / الفلاح / القاضي / الباحث / الشاعر / الجار
subject: العامل / المدير / المترجم
verb: كتب رسالة طويلة / قرأ كتابا قديما / اشترى بيتا صغيرا / باع سيارته / درس التاريخ والجغرافيا / انتظر أخاه / سأل عن الطريق
verb: شرب القهوة
verb: فتح الباب ودخل / زار المتحف الوطني / ترجم القصيدة كلها / تكلم مع أصدقائه / نسي مفتاحه / وجد عملا جديدا
verb: أعد الطعام للضيوف / رفض أن يجيب
verb: شكر الحاضرين / حفظ الأرقام كلها / تعلم لغة جديدة / رسم خريطة للمدينة / أكمل عمله وعاد / سمع الخبر في الإذاعة
place: في السوق / في المكتبة العامة / قرب البحر / في البيت / أمام المحطة / في الجامعة / على ضفة النهر / في الحديقة
place: عند الجسر القديم / في القرية / في المستشفى / في المطار
time: في الصباح / في المساء / قبل الغروب / بعد الظهر / كل أسبوع / في فصل الشتاء / منذ زمن بعيد / عند منتصف الليل / أمس
time: في نهاية الشهر / كعادته
link: ثم / وبعد ذلك / ولكن / ومع ذلك / لهذا السبب / وفي الوقت نفسه / وعلى كل حال / ومن ناحية أخرى / وأخيرا / في الواقع
thing: الماء / الخبز / القمح / الزيت / الكتب / السكر / القطن / الذهب / الحرير / التمر / الأرز / النفط / الملح
- {subject} {verb} {place} {time}.
- {time} {subject} {verb}، {link} {verb}.
- {link} قال {subject} إن {subject} {verb} {place}.
- سافر {subject} من مدينة {city} إلى مدينة {city} يوم {date}.
- وصل {subject} إلى {city} في الساعة {time_of_day}، {link} {verb} {place}.
- يبلغ سعر {thing} في {territory} نحو {money}.
- كان ثمن {thing} {money}، وأصبح الآن {money}.
- يتحدث الناس في {territory} لغات كثيرة، منها {languages}.
- تقع {city} على بعد {distance} من {city}.
- هل تعرف كم يبلغ وزن {thing}؟ قال {subject}: {weight}.
- اجتمع ممثلو {territories} في {city} يوم {date} لبحث تجارة {thing}.
- في شهر {month} من سنة {year} {verb} {subject} {place}.
- ارتفع إنتاج {thing} في {territory} بنسبة {percent} خلال {duration}.
- تعلم {subject} اللغة {language} في {duration}، {link} {verb}.
- كتب {subject} نصه بالخط {script}، ولم يقرأه أحد في {territory}.
- من {month} إلى {month} يزور {territory} نحو {number} مسافر.
- {relative} {verb} {subject}، وما زال {place}.
- لا يعرف {subject} لماذا {verb} {subject} {place} {time}.
- تفتح المكتبة أبوابها يوم {weekday} من الساعة {time_of_day} حتى الساعة {time_of_day}.
- زرنا {cities}، وكانت الرحلة {duration}.
- يدفع {subject} بعملة {currency}، أما {subject} فيدفع {money}.
- إذا {verb} {subject}، فسوف يغضب {subject}.
- عدد سكان {city} نحو {number} نسمة، أي {percent} من سكان {territory}.
"""

HEBREW = """
subject: הרופא / המורה / המהנדס / הסופר / הסוחר / השר / התלמיד / הנוסע / החקלאי / השופט / החוקר / המשורר / השכן / הפועל
subject: המנהל / המתרגם
verb: כתב מכתב ארוך / קרא ספר ישן / קנה בית קטן / מכר את המכונית / למד היסטוריה / חיכה לאחיו / שאל על הדרך / שתה קפה
verb: פתח את הדלת ונכנס
verb: ביקר במוזיאון / תרגם את השיר כולו / דיבר עם חבריו / שכח את המפתח / מצא עבודה חדשה / הכין אוכל לאורחים / סירב לענות
verb: הודה לכולם
verb: זכר את כל המספרים / למד שפה חדשה / צייר מפה של העיר / סיים את עבודתו וחזר / שמע את החדשות ברדיו / ישב ושתק
place: בשוק / בספרייה / ליד הים / בבית / מול התחנה / באוניברסיטה / על גדת הנהר / בגן / ליד הגשר הישן / בכפר / בבית החולים
place: בנמל התעופה
time: בבוקר / בערב / לפני השקיעה / אחרי הצהריים / בכל שבוע / בחורף / לפני שנים רבות / בחצות / אתמול / בסוף החודש / כהרגלו
link: אחר כך / אבל / ובכל זאת / לכן / באותו זמן / בכל מקרה / מצד שני / ולבסוף / למעשה / מלבד זאת
thing: המים / הלחם / החיטה / השמן / הספרים / הסוכר / הכותנה / הזהב / המשי / התמרים / האורז / הנפט / המלח
- {subject} {verb} {place} {time}.
- {time} {subject} {verb}, {link} {verb}.
- {link} אמר {subject} כי {subject} {verb} {place}.
- {subject} נסע מהעיר {city} אל העיר {city} ב{date}.
- {subject} הגיע לעיר {city} בשעה {time_of_day}, {link} {verb} {place}.
- מחיר {thing} במדינת {territory} הוא {money} בקירוב.
- פעם {thing} עלו {money}, והיום {money}.
- במדינת {territory} מדברים שפות רבות, ביניהן {languages}.
- העיר {city} נמצאת במרחק {distance} מהעיר {city}.
- כמה שוקל המשא של {thing}? אמר {subject}: {weight}.
- נציגי {territories} נפגשו בעיר {city} ב{date} כדי לדון במסחר של {thing}.
- בחודש {month} של שנת {year} {subject} {verb} {place}.
- ייצור {thing} במדינת {territory} עלה ב{percent} במשך {duration}.
- {subject} למד את השפה {language} במשך {duration}, {link} {verb}.
- {subject} כתב בכתב {script}, ואיש במדינת {territory} לא הבין.
- מ{month} עד {month} מבקרים בה כ{number} נוסעים.
- {relative} {subject} {verb}, והוא עדיין {place}.
- {subject} אינו יודע מדוע {subject} {verb} {place} {time}.
- הספרייה פתוחה ב{weekday} משעה {time_of_day} עד שעה {time_of_day}.
- ביקרנו בערים {cities}, והמסע נמשך {duration}.
- {subject} משלם במטבע {currency}, ואילו {subject} משלם {money}.
- אם {subject} {verb}, {subject} יכעס.
- בעיר {city} גרים כ{number} תושבים, שהם {percent} מתושבי {territory}.
"""

RUSSIAN = """
subject: врач / учитель / инженер / писатель / купец / министр / студент / путешественник / крестьянин / судья / учёный / поэт
subject: сосед / рабочий / директор / переводчик
verb: написал длинное письмо / прочитал старую книгу / купил небольшой дом / продал машину / изучал историю и географию
verb: ждал брата / спросил дорогу
verb: пил кофе / открыл дверь и вошёл / посетил музей / перевёл всё стихотворение / поговорил с друзьями / забыл ключ
verb: нашёл новую работу
verb: приготовил обед для гостей / отказался отвечать / поблагодарил всех / запомнил все числа / выучил новый язык
verb: нарисовал карту города / вернулся домой
place: на рынке / в библиотеке / у моря / дома / перед вокзалом / в университете / на берегу реки / в саду / у старого моста
place: в деревне / в больнице / в аэропорту
time: утром / вечером / до заката / после обеда / каждую неделю / зимой / много лет назад / в полночь / вчера / в конце месяца
time: как обычно
link: потом / но / и всё-таки / поэтому / в то же время / во всяком случае / с другой стороны / наконец / на самом деле
link: кроме того
thing: вода / хлеб / пшеница / масло / книги / сахар / хлопок / золото / шёлк / финики / рис / нефть / соль
- {time} {subject} {verb} {place}.
- {place} {subject} {verb}, {link} {verb}.
- {link} {subject} сказал, что {subject} {verb} {place}.
- Из города {city} в город {city} {subject} приехал {date}.
- В {time_of_day} {subject} прибыл в город {city}, {link} {verb} {place}.
- Товар: {thing}. Цена в стране {territory}: {money}.
- Раньше {thing} стоили {money}, а теперь {money}.
- Государство {territory}: здесь говорят на многих языках, среди них {languages}.
- Между городами {city} и {city} {distance}.
- Сколько весит этот груз, {thing}? «{weight}», ответил {subject}.
- Встреча прошла в городе {city}, участвовали {territories}; дата встречи: {date}.
- {month} {year} года: {subject} {verb} {place}.
- За {duration} производство товара «{thing}» выросло на {percent}.
- {language} язык {subject} выучил за {duration}, {link} {verb}.
- Надпись сделана письмом «{script}», и её никто не прочитал, хотя {subject} {verb}.
- С начала года страну {territory} посетили {number} человек.
- {relative} {subject} {verb} и до сих пор живёт {place}.
- Никто не знает, почему {subject} {verb} {place} {time}.
- Библиотека открыта с {time_of_day} до {time_of_day}, выходной день: {weekday}.
- Мы видели города {cities}, и путь занял {duration}.
- Валюта страны {territory}: {currency}; {subject} заплатил {money}.
- Если бы {subject} {verb}, {subject} рассердился бы.
- Население города {city}: {number} человек, или {percent} населения страны {territory}.
"""

GREEK = """
subject: ο γιατρός / ο δάσκαλος / ο μηχανικός / ο συγγραφέας / ο έμπορος / ο υπουργός / ο φοιτητής / ο ταξιδιώτης / ο αγρότης
subject: ο δικαστής / ο ερευνητής / ο ποιητής
subject: ο γείτονας / ο εργάτης / ο διευθυντής / ο μεταφραστής
verb: έγραψε ένα μεγάλο γράμμα / διάβασε ένα παλιό βιβλίο / αγόρασε ένα μικρό σπίτι / πούλησε το αυτοκίνητο / σπούδασε ιστορία
verb: περίμενε τον αδελφό του
verb: ρώτησε για τον δρόμο / ήπιε καφέ / άνοιξε την πόρτα και μπήκε / επισκέφθηκε το μουσείο / μετέφρασε όλο το ποίημα
verb: μίλησε με τους φίλους του
verb: ξέχασε το κλειδί / βρήκε νέα δουλειά / ετοίμασε φαγητό για τους ξένους / αρνήθηκε να απαντήσει / έμαθε μια νέα γλώσσα
verb: ζωγράφισε έναν χάρτη
place: στην αγορά / στη βιβλιοθήκη / κοντά στη θάλασσα / στο σπίτι / μπροστά στον σταθμό / στο πανεπιστήμιο
place: στην όχθη του ποταμού / στον κήπο
place: δίπλα στην παλιά γέφυρα / στο χωριό / στο νοσοκομείο / στο αεροδρόμιο
time: το πρωί / το βράδυ / πριν από τη δύση / το απόγευμα / κάθε εβδομάδα / τον χειμώνα / πριν από πολλά χρόνια / τα μεσάνυχτα
time: χθες / στο τέλος του μήνα
link: έπειτα / αλλά / και όμως / γι' αυτό / την ίδια στιγμή / εν πάση περιπτώσει / από την άλλη πλευρά / τέλος
link: στην πραγματικότητα / επιπλέον
thing: το νερό / το ψωμί / το σιτάρι / το λάδι / το βιβλίο / η ζάχαρη / το βαμβάκι / ο χρυσός / το μετάξι / το ρύζι
thing: το πετρέλαιο / το αλάτι
- {time} {subject} {verb} {place}.
- {place} {subject} {verb}, {link} {verb}.
- {link} {subject} είπε ότι {subject} {verb} {place}.
- Από την πόλη {city} έως την πόλη {city}: {subject} έφτασε εκεί {date}.
- Στις {time_of_day} {subject} έφτασε στην πόλη {city}, {link} {verb} {place}.
- Πόσο κοστίζει {thing}; Στη χώρα «{territory}» κοστίζει {money}.
- Άλλοτε {thing} κόστιζε {money}, τώρα κοστίζει {money}.
- Στη χώρα «{territory}» μιλούν πολλές γλώσσες, όπως {languages}.
- Η πόλη {city} απέχει {distance} από την πόλη {city}.
- Πόσο ζυγίζει το φορτίο; «{weight}», απάντησε {subject}.
- Στην πόλη {city} συναντήθηκαν οι χώρες {territories}, {date}.
- {month} {year}: {subject} {verb} {place}.
- Σε {duration} η τιμή αυξήθηκε κατά {percent} και {subject} {verb}.
- Γλώσσα: {language}. Ο μαθητής την έμαθε σε {duration}, {link} {verb}.
- Η γραφή «{script}» ήταν άγνωστη, αλλά {subject} {verb}.
- Τη χώρα «{territory}» επισκέφθηκαν {number} ταξιδιώτες.
- {relative} {subject} {verb} και ζει ακόμη {place}.
- Κανείς δεν ξέρει γιατί {subject} {verb} {place} {time}.
- Η βιβλιοθήκη είναι ανοιχτή από τις {time_of_day} έως τις {time_of_day}, εκτός από {weekday}.
- Είδαμε τις πόλεις {cities}, και το ταξίδι κράτησε {duration}.
- Νόμισμα: {currency}. Πλήρωσε {money}, και {subject} {verb}.
- Αν {subject} {verb}, τότε {subject} θα θυμώσει.
- Η πόλη {city} έχει {number} κατοίκους, δηλαδή {percent} του πληθυσμού.
"""

CHINESE = """
subject: 医生 / 老师 / 工程师 / 作家 / 商人 / 部长 / 学生 / 旅客 / 农民 / 法官 / 研究员 / 诗人 / 邻居 / 工人 / 经理 / 翻译
subject: 老人 / 孩子
verb: 写了一封长信 / 读了一本旧书 / 买了一座小房子 / 卖掉了汽车 / 学习历史和地理 / 等他的哥哥 / 问了路 / 喝了一杯茶
verb: 打开门走了进去 / 参观了博物馆
verb: 翻译了整首诗 / 和朋友谈话 / 忘记了钥匙 / 找到了新工作 / 为客人准备了晚饭 / 不愿意回答 / 感谢了大家 / 记住了所有的数字
verb: 学会了一门新语言 / 画了一张地图
place: 在市场上 / 在图书馆里 / 在海边 / 在家里 / 在车站前面 / 在大学里 / 在河岸上 / 在花园里 / 在旧桥旁边 / 在村子里
place: 在医院里 / 在机场
time: 早上 / 晚上 / 日落以前 / 下午 / 每个星期 / 冬天 / 很多年以前 / 半夜 / 昨天 / 月底 / 像往常一样
link: 然后 / 但是 / 尽管如此 / 因此 / 与此同时 / 无论如何 / 另一方面 / 最后 / 其实 / 此外
thing: 水 / 面包 / 小麦 / 油 / 书 / 糖 / 棉花 / 黄金 / 丝绸 / 茶叶 / 大米 / 石油 / 盐
- {time}{subject}{place}{verb}。
- {subject}{verb}，{link}{verb}。
- {link}，{subject}说{subject}{place}{verb}。
- {date}，{subject}从{city}来到了{city}。
- {subject}{time_of_day}到达{city}，{link}{place}{verb}。
- {territory}的{thing}价格大约是{money}。
- 以前{thing}卖{money}，现在卖{money}。
- {territory}的人们说很多种语言，例如{languages}。
- 从{city}到{city}有{distance}。
- 这些{thing}有多重？{subject}回答说：“{weight}。”
- {date}，{territories}的代表在{city}开会，讨论{thing}的贸易。
- {year}年{month}，{subject}{place}{verb}。
- {territory}的{thing}产量在{duration}内增长了{percent}。
- {subject}用{duration}学会了{language}，{link}{verb}。
- {subject}用{script}写字，{territory}没有人看得懂。
- 从{month}到{month}，约有{number}人访问{territory}。
- {relative}{subject}{verb}，现在还{place}。
- 没有人知道{subject}为什么{time}{place}{verb}。
- 图书馆{weekday}从{time_of_day}开放到{time_of_day}。
- 我们去了{cities}，路上用了{duration}。
- {subject}用{currency}付款，一共{money}。
- 如果{subject}{verb}，{subject}就会生气。
- {city}有{number}人，占{territory}人口的{percent}。
"""

JAPANESE = """
subject: 医者 / 先生 / 技術者 / 作家 / 商人 / 大臣 / 学生 / 旅人 / 農夫 / 裁判官 / 研究者 / 詩人 / 隣の人 / 職人 / 社長 / 通訳
subject: 老人 / 子ども
verb: 長い手紙を書いた / 古い本を読んだ / 小さな家を買った / 車を売った / 歴史を勉強した / 弟を待っていた / 道をたずねた
verb: お茶を飲んだ / 扉を開けて中に入った
verb: 博物館を訪れた / 詩をすべて訳した / 友だちと話した / 鍵を忘れた / 新しい仕事を見つけた / 夕食の支度をした / 答えなかった
verb: みんなに礼を言った / 地図をかいた
place: 市場で / 図書館で / 海のそばで / 家で / 駅の前で / 大学で / 川の岸で / 庭で / 古い橋のたもとで / 村で / 病院で / 空港で
time: 朝 / 夜 / 日が沈む前に / 午後 / 毎週 / 冬に / ずっと昔 / 真夜中に / きのう / 月の終わりに / いつものように
link: それから / しかし / それでも / だから / 同時に / いずれにしても / 一方 / 最後に / 実は / そのうえ
thing: 水 / パン / 小麦 / 油 / 本 / 砂糖 / 綿 / 金 / 絹 / お茶 / 米 / 石油 / 塩
- {time}、{subject}は{place}{verb}。
- {subject}は{verb}が、{link}{subject}は{verb}。
- {link}、{subject}によると、{subject}は{place}{verb}という。
- {date}に、{subject}は{city}から{city}へ行った。
- {subject}は{time_of_day}に{city}に着き、{link}{place}{verb}。
- {territory}では{thing}の値段は{money}ぐらいだ。
- 前は{thing}が{money}だったが、今は{money}になった。
- {territory}では{languages}など、いろいろな言葉が話されている。
- {city}から{city}までは{distance}ある。
- この{thing}の重さはどれぐらいですか。{subject}は「{weight}です」と答えた。
- {date}、{territories}の代表が{city}に集まり、{thing}の取引について話し合った。
- {year}年の{month}、{subject}は{place}{verb}。
- {territory}の{thing}の生産は{duration}で{percent}ふえた。
- {subject}は{duration}で{language}をおぼえて、{link}{verb}。
- {subject}は{script}で書いたので、{territory}ではだれも読めなかった。
- {month}から{month}までに、およそ{number}人が{territory}を訪れる。
- {relative}に{subject}は{verb}。
- どうして{subject}が{time}{place}{verb}のか、だれも知らない。
- 図書館は{weekday}の{time_of_day}から{time_of_day}まで開いている。
- わたしたちは{cities}を訪れ、旅は{duration}かかった。
- {subject}は{currency}で払い、全部で{money}だった。
- もし{subject}なら、きっと{place}待っているだろう。
- {city}の人口は{number}人で、{territory}の{percent}にあたる。
"""

KOREAN = """
subject: 의사는 / 선생님은 / 기술자는 / 작가는 / 상인은 / 장관은 / 학생은 / 나그네는 / 농부는 / 판사는 / 연구원은 / 시인은
subject: 이웃은 / 노동자는 / 사장은 / 통역사는
verb: 긴 편지를 썼다 / 오래된 책을 읽었다 / 작은 집을 샀다 / 자동차를 팔았다 / 역사와 지리를 공부했다 / 동생을 기다렸다
verb: 길을 물었다 / 커피를 마셨다
verb: 문을 열고 들어갔다 / 박물관을 찾아갔다 / 시를 모두 옮겼다 / 친구들과 이야기했다 / 열쇠를 잊었다 / 새 일을 찾았다
verb: 저녁을 차렸다 / 대답하지 않았다
verb: 모두에게 고마워했다 / 숫자를 다 외웠다 / 새로운 말을 배웠다 / 도시의 지도를 그렸다
place: 시장에서 / 도서관에서 / 바닷가에서 / 집에서 / 역 앞에서 / 대학교에서 / 강가에서 / 정원에서 / 낡은 다리 옆에서
place: 마을에서 / 병원에서 / 공항에서
time: 아침에 / 저녁에 / 해가 지기 전에 / 오후에 / 매주 / 겨울에 / 오래전에 / 한밤중에 / 어제 / 월말에 / 늘 그렇듯이
link: 그리고 / 그러나 / 그래도 / 그래서 / 동시에 / 어쨌든 / 한편 / 마침내 / 사실 / 게다가
thing: 물값 / 빵값 / 밀값 / 기름값 / 책값 / 설탕값 / 솜값 / 금값 / 비단값 / 쌀값 / 소금값
- {time} {subject} {place} {verb}.
- {subject} {verb}. {link} {place} {verb}.
- {link} {subject} 이렇게 말했다. "{subject} {place} {verb}."
- {date}에 {subject} {city}에서 {city}까지 갔다.
- {subject} {time_of_day}에 {city}에 도착했다. {link} {place} {verb}.
- {territory}에서 {thing} 평균은 {money} 정도이다.
- 예전에는 {thing} 평균이 {money}, 지금은 {money} 정도이다.
- {territory}에서는 {languages} 등 여러 언어를 쓴다.
- {city}에서 {city}까지 거리는 {distance} 정도이다.
- 이 짐은 얼마나 무겁습니까? {subject} "{weight}" 하고 대답했다.
- {date} {city}에서 {territories} 대표가 모여 {thing} 문제를 이야기했다.
- {year}년 {month}에 {subject} {place} {verb}.
- {territory}의 {thing} 상승률은 {duration} 동안 {percent}에 이르렀다.
- {subject} {duration} 동안 {language} 공부를 했다. {link} {verb}.
- 그 글은 {script} 문자로 되어 있어서 {territory}에서 아무도 읽지 못했다.
- {month}부터 {month}까지 {number}명이 {territory}에 온다.
- {relative} {subject} {verb}.
- 왜 {subject} {time} {place} {verb} 아무도 모른다.
- 도서관은 {weekday} {time_of_day}부터 {time_of_day}까지 문을 연다.
- 우리는 {cities} 등을 다녔고 여행은 {duration} 걸렸다.
- {subject} {currency} 대신 {money} 냈다.
- {city}의 인구는 {number}명으로 {territory} 인구의 {percent} 정도이다.
"""
